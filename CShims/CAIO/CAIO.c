typedef int CAIO_placeholder;
