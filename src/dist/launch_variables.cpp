#include "dist/launch_variables.h"

#include <array>
#include <charconv>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/host.h"

namespace crnet {
namespace {

// Innermost launcher first.
constexpr std::array kRankNames = {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK",
                                   "SLURM_PROCID"};

std::optional<int> parse_number(const std::string& text) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  if (failure != std::errc() || stop != end || value < 0) return std::nullopt;
  return value;
}

}  // namespace

LaunchVariables::LaunchVariables(EnvironmentLookup environment)
    : environment_(std::move(environment)) {}

std::optional<std::string> LaunchVariables::find(const char* name) const {
  auto value = environment_(name);
  return value && !value->empty() ? value : std::nullopt;
}

int LaunchVariables::number(const char* name, const std::string& remedy) const {
  const auto text = find(name);
  if (!text) fail(format("expected %s, got nothing; %s", name, remedy.c_str()));
  const auto value = parse_number(*text);
  if (!value) {
    fail(format("expected %s to be a whole number, got %s; %s", name, shell_word(*text).c_str(),
                remedy.c_str()));
  }
  return *value;
}

bool LaunchVariables::is(const char* name, int value) const {
  const auto text = find(name);
  return text && parse_number(*text) == value;
}

void LaunchVariables::fail(const std::string& text) const {
  std::string who = host_name();
  for (const char* name : kRankNames) {
    if (const auto rank = find(name)) {
      who += format(", %s=%s", name, rank->c_str());
      break;
    }
  }
  throw UsageError(format("[dist] %s (on %s)", text.c_str(), who.c_str()));
}

void check_place(const LaunchVariables& variables, const PlaceNames& names, const Launch& launch) {
  const auto check = [&](bool is_right, const char* name, int value, const char* relation,
                         const char* limit_name, int limit) {
    if (is_right) return;
    variables.fail(format("expected %s %s %s=%d, got %d; ranks count from 0", name, relation,
                          limit_name, limit, value));
  };
  const int size = launch.world_size, local_size = launch.local_world_size;
  check(launch.rank < size, names.rank, launch.rank, "below", names.size, size);
  check(launch.local_rank < local_size, names.local_rank, launch.local_rank, "below",
        names.local_size, local_size);
  check(local_size <= size, names.local_size, local_size, "of at most", names.size, size);
}

}  // namespace crnet
