#include "crnet/train/stop_signal.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>

namespace crnet {
namespace {

// A launcher may hand on what the terminal has sent already: for so long that is one signal.
constexpr time_t kSameSeconds = 2;
constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGUSR1};

// A handler can reach nothing else.
volatile std::sig_atomic_t received_signal = 0;
volatile time_t received_at = 0;
std::string_view answer_to_signal;  // does not change while a handler is there
std::array<struct sigaction, kSignals.size()> former;
struct sigaction former_of_pipe;

time_t seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

void note(int signal) {
  if (received_signal == 0) {
    received_at = seconds_now();
    received_signal = signal;
    const int error = errno;
    // Where stderr is gone there is nobody to tell.
    [[maybe_unused]] const auto written =
        write(STDERR_FILENO, answer_to_signal.data(), answer_to_signal.size());
    errno = error;
  } else if (seconds_now() - received_at >= kSameSeconds) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

StopSignal::StopSignal(std::string_view answer) {
  received_signal = 0;
  answer_to_signal = answer;
  sigaction(SIGPIPE, nullptr, &former_of_pipe);
  if (!answer.empty() && former_of_pipe.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
  struct sigaction action {};
  action.sa_handler = note;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &former[i]);
}

StopSignal::~StopSignal() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &former[i], nullptr);
  sigaction(SIGPIPE, &former_of_pipe, nullptr);
}

int StopSignal::received() {
  return received_signal;
}

}  // namespace crnet
