// Processes of one program on this machine, started, watched and ended together.
#pragma once

#include <string>
#include <vector>

namespace crnet {

/// What is started, and what follows where it fails. Times are in seconds.
struct SuperviseOptions {
  int num_processes = 1;                      ///< 1 to 1024.
  std::string executable = "/proc/self/exe";  ///< By default the program that runs already.
  std::vector<std::string> command;           ///< argv of each process; [0] is only its name.
  std::vector<std::string> restart_command;   ///< argv after a restart; empty: as `command`.
  int max_restarts = 0;
  std::string advice;        ///< Said at the end where it failed, and not by the user's mistake.
  double usual_end = 1;      ///< From a failure until it is said that the others still run.
  double grace = 30;         ///< From a failure until the other processes get SIGTERM.
  double kill_after = 10;    ///< From that until they get SIGKILL.
  double restart_pause = 1;  ///< Before the first restart; doubles from one to the next, up to 30.
};

/// Runs the processes and returns 0 where all end with 0, else the exit code of the first that
/// failed: its own, or 128 + the signal that ended it.
///
/// Each is told its place by RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR (always
/// 127.0.0.1), MASTER_PORT and CRNET_LAUNCH (an id of this attempt), as detect_launch reads it, and
/// by OMP_NUM_THREADS its share of the cores, unless that is set. The port is held for them; to
/// listen there wants SO_REUSEADDR, which c10d::TCPStore sets. What another launcher has left in
/// the environment is taken out. They read nothing (/dev/null), and write where this process does.
///
/// After a failure all processes are ended, then started anew up to max_restarts times. Where one
/// ended with 2, which in crnet is the user's mistake, or the user ended the run, they are not.
///
/// SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 go on to all processes, unless this process
/// ignores them (nohup). The first three end the run, and go on once each; a second SIGINT kills.
/// Each process leads a process group of its own, so a Ctrl-C reaches it in this way alone, and a
/// Ctrl-Z stops the caller alone. What a process leaves in its group when it ends is killed. The
/// kernel kills the processes when the thread that called ends, by whatever cause.
///
/// Call it while no other thread runs: that could take the signals. Throws UsageError where an
/// option is wrong and Error where the system refuses a process.
[[nodiscard]] int supervise(const SuperviseOptions& options);

/// Throws supervise()'s UsageError for num_processes and max_restarts.
void check_numbers(const SuperviseOptions& options);

}  // namespace crnet
