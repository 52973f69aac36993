// Placeholder for the tests of the benchmark.
