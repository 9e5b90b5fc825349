#include "crnet/train/stop_signal.h"

#include <csignal>

namespace crnet {
namespace {

// A handler can reach nothing else.
volatile std::sig_atomic_t received_signal = 0;
struct sigaction former_interrupt, former_terminate;

void note(int signal) {
  if (received_signal != 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  received_signal = signal;
}

}  // namespace

StopSignal::StopSignal() {
  received_signal = 0;
  struct sigaction action {};
  action.sa_handler = note;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &former_interrupt);
  sigaction(SIGTERM, &action, &former_terminate);
}

StopSignal::~StopSignal() {
  sigaction(SIGINT, &former_interrupt, nullptr);
  sigaction(SIGTERM, &former_terminate, nullptr);
}

int StopSignal::received() {
  return received_signal;
}

}  // namespace crnet
