// Messages to the person at the terminal and to the run's log file.
#pragma once

#include <filesystem>
#include <string_view>

namespace crnet::log {

/// One line each, to standard error with a time stamp, and to every attached file. A status line on
/// the terminal is cleared first and drawn again after.
void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

/// From here on only error() writes: for all processes of a run but the first.
void keep_to_errors();

/// Appends all later messages to `path` too, once however often it is asked for. Throws
/// crnet::Error where it cannot be opened.
void add_file(const std::filesystem::path& path);

/// Stops writing to the files that add_file attached.
void close_files();

}  // namespace crnet::log
