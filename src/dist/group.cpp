#include "crnet/dist/group.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <exception>
#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "dist/meeting.h"
#include "dist/monitor.h"
#include "dist/process_group.h"

namespace crnet {
namespace {

using std::chrono::seconds;
// How often a long wait looks whether all others live.
constexpr seconds kBetweenLooks{5};

// A text that gather() carries for run_together().
constexpr const char* kWorked = "ok";

// The first line, without the place in the library's source that it may begin with.
std::string short_text(const std::exception& failure) {
  const std::string text = failure.what();
  const size_t place = text.starts_with('[') ? text.find("] ") : std::string::npos;
  const size_t begin = place == std::string::npos ? 0 : place + 2;
  return text.substr(begin, text.find('\n') - begin);
}

}  // namespace

struct Group::State {
  State(const Launch& launch, const DistConfig& config, torch::Device device)
      : meeting(meet(launch, seconds(config.start_timeout_s))),
        groups(make_process_groups(meeting.store, launch, config, device)),
        monitor(std::make_unique<Monitor>(meeting, launch.rank)),
        timeout(config.timeout_s),
        slow_timeout(config.slow_timeout_s) {}
  void wait(const std::vector<std::string>& keys);

  Meeting meeting;
  ProcessGroups groups;
  std::unique_ptr<Monitor> monitor;
  const seconds timeout, slow_timeout;
  int64_t num_gathers = 0, step = 0;
  bool has_left = false;
};

Group::Group() = default;

Group::Group(const Launch& launch, const DistConfig& config, torch::Device device)
    : launch_(launch) {
  if (launch.world_size > 1) state_ = std::make_unique<State>(launch, config, device);
}

Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;

// The process that serves the store leaves last, or the others would find it gone.
Group::~Group() {
  leave("");
}

void Group::leave(const std::string& reason) {
  if (!state_ || std::exchange(state_->has_left, true)) return;
  state_->monitor->leaves(reason);
}

std::string Group::backend() const {
  return state_ ? state_->groups.backend : "none";
}

const c10::intrusive_ptr<c10d::ProcessGroup>& Group::handle() const {
  static const c10::intrusive_ptr<c10d::ProcessGroup> kNone;
  return state_ ? state_->groups.tensors : kNone;
}

void Group::at_step(int64_t step, double usual_seconds) {
  if (!state_) return;
  state_->step = step;
  state_->monitor->at_step(step, usual_seconds);
}

void Group::communicate(std::string_view what, const std::function<void()>& work) {
  if (!state_) return work();
  state_->monitor->waits_in(what);
  try {
    work();
  } catch (const Error&) {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::exception& failure) {
    throw Error(format(
        "[dist] process %d of %d: expected %s of step %ld from all, got: %s (%s); start again with "
        "--resume auto",
        rank(), size(), std::string(what).c_str(), static_cast<long>(state_->step),
        state_->monitor->find_lost().c_str(), short_text(failure).c_str()));
  }
  state_->monitor->waits_in("");
}

std::vector<double> Group::sum(std::vector<double> values, std::string_view what) {
  communicate(what, [&] {
    if (!state_) return;
    std::vector<torch::Tensor> tensors = {
        torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kFloat64)};
    state_->groups.control->allreduce(tensors)->wait();
  });
  return values;
}

// Others may be at work for long, but have to be alive.
void Group::State::wait(const std::vector<std::string>& keys) {
  const auto deadline = std::chrono::steady_clock::now() + slow_timeout;
  while (true) {
    try {
      return meeting.store->wait(keys, kBetweenLooks);
    } catch (const c10::DistStoreError& failure) {
      const bool is_late = std::chrono::steady_clock::now() > deadline;
      if (is_late || monitor->longest_silence() > timeout) throw;
    }
  }
}

std::vector<std::string> Group::gather(const std::string& text, std::string_view what) {
  if (!state_) return {text};
  std::vector<std::string> texts;
  communicate(what, [&] {
    auto& store = *state_->meeting.store;
    const int64_t number = state_->num_gathers++;
    const auto key = [](int64_t gather, int rank) {
      return format("text/%ld/%d", static_cast<long>(gather), rank);
    };
    std::vector<std::string> keys;
    for (int rank = 0; rank < size(); ++rank) keys.push_back(key(number, rank));
    store.set(keys[static_cast<size_t>(rank())], to_bytes(text));
    state_->wait(keys);
    for (const auto& bytes : store.multiGet(keys)) texts.push_back(to_text(bytes));
    // Whoever is here has read those of the gather before.
    if (number > 0) store.deleteKey(key(number - 1, rank()));
  });
  return texts;
}

void Group::expect_same(const std::vector<std::pair<std::string, std::string>>& texts) {
  if (!state_) return;
  const auto all = gather(nlohmann::json(texts).dump(), "a comparison of settings");
  for (size_t other = 1; other < all.size(); ++other) {
    if (all[other] == all[0]) continue;
    const auto first = nlohmann::json::parse(all[0]), found = nlohmann::json::parse(all[other]);
    for (size_t i = 0; i < first.size(); ++i) {
      if (i < found.size() && first[i] == found[i]) continue;
      const std::string theirs = i < found.size() ? found[i].at(1).get<std::string>() : "nothing";
      throw UsageError(format(
          "[dist] process %d of %d: expected the same %s on every process, got %s on %s and %s on "
          "%s",
          rank(), size(), first[i].at(0).get<std::string>().c_str(),
          first[i].at(1).get<std::string>().c_str(), name_of(state_->meeting.members[0]).c_str(),
          theirs.c_str(), name_of(state_->meeting.members[other]).c_str()));
    }
  }
}

void Group::run_together(std::string_view what, const std::function<void()>& work) {
  if (!state_) return work();
  std::string outcome = kWorked;
  std::exception_ptr own;
  try {
    work();
  } catch (const std::exception& failure) {
    own = std::current_exception();
    outcome = failure.what();
  }
  const auto outcomes = gather(outcome, what);
  if (own) std::rethrow_exception(own);
  for (size_t other = 0; other < outcomes.size(); ++other) {
    if (outcomes[other] == kWorked) continue;
    throw Error(format("[dist] process %d of %d stops, since %s could not %s: %s", rank(), size(),
                       name_of(state_->meeting.members[other]).c_str(), std::string(what).c_str(),
                       outcomes[other].substr(0, outcomes[other].find('\n')).c_str()));
  }
}

}  // namespace crnet
