#include "dist/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

[[noreturn]] void fail(const std::string& executable, int reason) {
  throw Error(
      format("[launch] expected to run %s, got: %s", executable.c_str(), std::strerror(reason)));
}

// As exec wants it; points into `words`.
std::vector<char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (const auto& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

void die_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, static_cast<unsigned long>(SIGKILL));
  if (getppid() != parent) _exit(1);  // it ended before that call
}

void read_nothing() {
  ::close(STDIN_FILENO);
  ::open("/dev/null", O_RDONLY);  // takes the lowest number, which is free now
}

// SIGTTOU would stop a background group that writes under `stty tostop`; exec keeps it ignored.
void take_signals() {
  std::signal(SIGTTOU, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

struct ExecArguments {
  explicit ExecArguments(const Program& program)
      : executable(program.executable.c_str()),
        argv(pointers_to(program.arguments)),
        environment(pointers_to(program.environment)) {}

  const char* executable;
  std::vector<char*> argv, environment;
};

// In the child of fork: nothing here allocates, since another thread may have held the lock.
[[noreturn]] void become(const ExecArguments& program, pid_t parent, int report) {
  die_with(parent);
  setpgid(0, 0);
  read_nothing();
  take_signals();
  execve(program.executable, program.argv.data(), program.environment.data());
  const int reason = errno;
  [[maybe_unused]] const ssize_t written = ::write(report, &reason, sizeof(reason));
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const Program& program) {
  // Exec closes the pipe; what failed before is read from it.
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail(program.executable, errno);
  const detail::Descriptor reader(ends[0]);
  detail::Descriptor writer(ends[1]);
  const ExecArguments arguments(program);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) become(arguments, parent, writer.get());
  if (pid_ < 0) fail(program.executable, errno);
  writer = detail::Descriptor();
  int reason = 0;
  if (::read(reader.get(), &reason, sizeof(reason)) <= 0) return;
  waitpid(pid_, nullptr, 0);
  fail(program.executable, reason);
}

ChildProcess::~ChildProcess() {
  if (!is_running()) return;
  send(SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::send(int signal) const {
  if (is_running()) kill(-pid_, signal);
}

std::optional<int> ChildProcess::poll() {
  siginfo_t ended{};
  if (!is_running() ||
      waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      ended.si_pid == 0) {
    return std::nullopt;
  }
  send(SIGKILL);  // what it started; until it is waited for, the group's number is its own
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  return status;
}

}  // namespace crnet
