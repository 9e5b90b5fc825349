// The one line at the bottom of a terminal that tells how far a long task has come.
#pragma once

#include <string>

namespace crnet {

/// Rewrites one line on standard error while the task runs. Where standard error is not a terminal
/// nothing is drawn, and the caller logs plain lines at its own pace instead: ask `is_terminal()`.
/// At most one lives at a time.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();  ///< Removes the line.
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  [[nodiscard]] static bool is_terminal();

  /// Shows `text`, cut to the terminal's width.
  void update(const std::string& text);

 private:
  std::string text_;
};

namespace detail {
/// Called by the log around each message that goes to the terminal.
void hide_status_line();
void show_status_line();
}  // namespace detail

}  // namespace crnet
