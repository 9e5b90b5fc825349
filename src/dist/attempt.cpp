#include "dist/attempt.h"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "crnet/core/status_line.h"
#include "dist/launch_environment.h"

namespace crnet {
namespace {

using Clock = SignalInbox::Clock;
constexpr int kUsageErrorCode = 2;

Clock::time_point after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string signal_name(int signal) {
  const char* name = sigabbrev_np(signal);
  return name != nullptr ? std::string("SIG") + name : format("signal %d", signal);
}

// Of a status of waitpid.
int exit_code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string describe_end(int status) {
  return WIFSIGNALED(status) ? "was ended by " + signal_name(WTERMSIG(status))
                             : format("exited with %d", WEXITSTATUS(status));
}

bool ends_the_launch(int signal) {
  return signal == SIGINT || signal == SIGTERM || signal == SIGHUP;
}

}  // namespace

Attempt::Attempt(const SuperviseOptions& options, const std::vector<std::string>& command,
                 const SignalInbox& inbox)
    : options_(options), inbox_(inbox) {
  Launch launch;
  launch.world_size = launch.local_world_size = options.num_processes;
  launch.rendezvous_host = "127.0.0.1";
  launch.rendezvous_port = port_.number();
  launch.job = make_job_id();
  for (int rank = 0; rank < options.num_processes; ++rank) {
    launch.rank = launch.local_rank = rank;
    processes_.emplace_back(Program{options.executable, command, launch_environment(launch)});
  }
}

void Attempt::run() {
  while (is_running()) {
    const int signal = inbox_.wait(std::min(notice_, deadline_));
    if (signal == 0 && notice_ < deadline_) {
      say_what_the_others_have();
    } else if (signal == 0) {
      end_the_others();
    } else if (signal == SIGCHLD) {
      reap();
    } else {
      pass_on(signal);
    }
  }
}

bool Attempt::pause(double seconds) {
  const auto end = after(seconds);
  while (!user_ended_it_) {
    const int signal = inbox_.wait(end);
    if (signal == 0) return true;
    if (signal != SIGCHLD) pass_on(signal);
  }
  return false;
}

bool Attempt::is_running() const {
  return std::any_of(processes_.begin(), processes_.end(),
                     [](const auto& process) { return process.is_running(); });
}

void Attempt::send(int signal) const {
  for (const auto& process : processes_) process.send(signal);
}

// A trainer ends at once on a second SIGINT or SIGTERM, and one wish may come twice: `timeout`
// signals its child and then the group that this is in.
void Attempt::pass_on(int signal) {
  const bool is_first = passed_on_.insert(signal).second;
  if (!ends_the_launch(signal) || is_first) {
    send(signal);
  } else if (signal == SIGINT) {
    if (is_running()) say("killed all processes at the second Ctrl-C");
    user_killed_it_ = true;
    send(SIGKILL);
  }
  user_ended_it_ |= ends_the_launch(signal);
}

void Attempt::reap() {
  for (size_t rank = 0; rank < processes_.size(); ++rank) {
    const auto status = processes_[rank].poll();
    if (status && *status != 0) note_failure(rank, *status);
  }
}

void Attempt::note_failure(size_t rank, int status) {
  user_erred_ |= exit_code_of(status) == kUsageErrorCode;
  if (exit_code_ != 0) return;
  exit_code_ = exit_code_of(status);
  deadline_ = after(options_.grace);
  if (user_killed_it_) return;
  notice_ = after(options_.usual_end);
  say(format("process %zu of %d %s", rank, options_.num_processes, describe_end(status).c_str()));
}

void Attempt::say_what_the_others_have() {
  notice_ = Clock::time_point::max();
  const std::chrono::duration<double> left = deadline_ - Clock::now();
  say("the others have " + format_duration(left.count()) + " to end");
}

void Attempt::end_the_others() {
  notice_ = Clock::time_point::max();
  send(next_measure_);
  deadline_ = next_measure_ == SIGTERM ? after(options_.kill_after) : Clock::time_point::max();
  next_measure_ = SIGKILL;
}

void say(const std::string& message) {
  StatusLine().update("");  // process 0 may have left its progress on the terminal's line
  log::warn(message);
}

}  // namespace crnet
