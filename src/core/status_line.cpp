#include "crnet/core/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>

namespace crnet {
namespace {

// The log writes from other threads than the one that draws.
std::mutex status_mutex;
const std::string* visible_text = nullptr;

size_t terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

void erase() {
  std::fputs("\r\033[K", stderr);
}

void draw(const std::string& text) {
  std::fputs("\r", stderr);
  std::fputs(text.substr(0, terminal_width() - 1).c_str(), stderr);
  std::fputs("\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace

StatusLine::StatusLine() = default;

StatusLine::~StatusLine() {
  const std::lock_guard lock(status_mutex);
  if (visible_text != &text_) return;
  visible_text = nullptr;
  erase();
  std::fflush(stderr);
}

bool StatusLine::is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

void StatusLine::update(const std::string& text) {
  if (!is_terminal()) return;
  const std::lock_guard lock(status_mutex);
  text_ = text;
  visible_text = &text_;
  draw(text_);
}

namespace detail {

void hide_status_line() {
  const std::lock_guard lock(status_mutex);
  if (visible_text != nullptr) erase();
}

void show_status_line() {
  const std::lock_guard lock(status_mutex);
  if (visible_text != nullptr) draw(*visible_text);
}

}  // namespace detail
}  // namespace crnet
