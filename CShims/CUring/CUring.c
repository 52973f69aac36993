typedef int CUring_placeholder;
