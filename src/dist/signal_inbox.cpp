#include "dist/signal_inbox.h"

#include <algorithm>
#include <cerrno>

namespace crnet {
namespace {

bool is_ignored(int signal) {
  struct sigaction current {};
  sigaction(signal, nullptr, &current);
  return current.sa_handler == SIG_IGN;
}

}  // namespace

SignalInbox::SignalInbox() {
  // Where SIGCHLD is ignored, as some parents leave it, the system forgets how a child ended.
  struct sigaction noticed {};
  noticed.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &noticed, &former_child_action_);
  sigemptyset(&awaited_);
  sigaddset(&awaited_, SIGCHLD);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) {
    if (!is_ignored(signal)) sigaddset(&awaited_, signal);
  }
  sigprocmask(SIG_BLOCK, &awaited_, &former_mask_);
}

SignalInbox::~SignalInbox() {
  sigprocmask(SIG_SETMASK, &former_mask_, nullptr);
  sigaction(SIGCHLD, &former_child_action_, nullptr);
}

int SignalInbox::wait(Clock::time_point until) const {
  for (;;) {
    const auto left = std::max<Clock::duration>(until - Clock::now(), Clock::duration::zero());
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec timeout{seconds.count(), (left - seconds).count()};
    const int signal = sigtimedwait(&awaited_, nullptr, &timeout);
    if (signal > 0) return signal;
    if (errno == EAGAIN) return 0;
  }
}

}  // namespace crnet
