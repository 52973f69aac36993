typedef int CChecksum_placeholder;
