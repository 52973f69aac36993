// The benchmark program. All of it is in the library `Bench`, where tests can reach it.

import ArgumentParser
import Bench

AshlarBench.main()
