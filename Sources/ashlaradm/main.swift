/// The administrator's tool: parses the command line, acts, exits with drbdadm's codes.

import Glibc

// A reader that went away, as `ashlaradm status | head`, is no reason to die with a signal.
signal(SIGPIPE, SIG_IGN)
exit(Ashlaradm.run(arguments: Array(CommandLine.arguments.dropFirst())))
