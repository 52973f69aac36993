/* Counts heap allocations of the program that links it: "no allocation per I/O" is a promise, so
 * it is measured. glibc only: its allocator stays in use under its other name. */
#ifndef CALLOCATIONCOUNT_H
#define CALLOCATIONCOUNT_H

#include <stdint.h>

/* Calls of malloc, calloc, realloc and their aligned relatives so far, by all threads. */
uint64_t callocation_count(void);

#endif
