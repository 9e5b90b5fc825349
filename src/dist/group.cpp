#include "crnet/dist/group.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <nlohmann/json.hpp>
#include <thread>
#include <typeinfo>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/log.h"
#include "dist/meeting.h"
#include "dist/monitor.h"
#include "dist/process_group.h"

namespace crnet {
namespace {

using std::chrono::seconds;
// How often a long wait looks what has come, and after what silence another is taken for dead.
constexpr std::chrono::milliseconds kBetweenLooks{500};
constexpr seconds kAlive{30};

const c10::intrusive_ptr<c10d::ProcessGroup> kNoGroup;

// What gather() carries for run_together(): this, or the kind of an exception and its text.
constexpr const char *kWorked = "ok", *kMistake = "U", *kFailure = "E";

// The first line, without the place in the library's source that it may begin with.
std::string short_text(const std::exception& failure) {
  const std::string text = failure.what();
  const size_t place = text.starts_with('[') ? text.find("] ") : std::string::npos;
  const size_t begin = place == std::string::npos ? 0 : place + 2;
  return text.substr(begin, text.find('\n') - begin);
}

// Of LibTorch's failures those that another process may be the cause of.
bool may_come_from_another(const std::exception& failure) {
  if (dynamic_cast<const c10::DistError*>(&failure) != nullptr) return true;
  // Not all of Gloo's texts name it, nor does its type where the text was wrapped.
  const auto names_gloo = [](std::string_view text) { return text.find("gloo") != text.npos; };
  return names_gloo(failure.what()) || names_gloo(typeid(failure).name());
}

ProcessGroups connect(const Meeting& meeting, Monitor& monitor, const Launch& launch,
                      const DistConfig& config, torch::Device device) {
  try {
    return make_process_groups(meeting.store, launch, config, device);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    const std::string text = format(
        "[dist] process %d of %d: expected to connect to the others, got: %s (%s); over "
        "several hosts GLOO_SOCKET_IFNAME names the network interface",
        launch.rank, launch.world_size, monitor.find_lost().c_str(), short_text(failure).c_str());
    monitor.leaves();
    throw Error(text);
  }
}

// Ends this process: its main thread waits on the device, for what will never come.
void end_since_lost(const Launch& launch, const std::string& found) {
  log::error(
      format("[dist] process %d of %d: expected all processes to train, got: %s; start again "
             "with --resume auto",
             launch.rank, launch.world_size, found.c_str()));
  std::_Exit(EXIT_FAILURE);
}

std::string posted_key(const std::string& key, int rank) {
  return format("posted/%s/%d", key.c_str(), rank);
}

}  // namespace

struct Group::State {
  State(const Launch& launch, const DistConfig& config, torch::Device device)
      : meeting(meet(launch, seconds(config.start_timeout_s))),
        monitor(std::make_unique<Monitor>(meeting, launch.rank)),
        groups(connect(meeting, *monitor, launch, config, device)),
        timeout(config.timeout_s),
        slow_timeout(config.slow_timeout_s) {
    if (groups.backend != "nccl") return;
    monitor->watch(static_cast<int>(std::min(kAlive, timeout).count()),
                   [launch](const std::string& found) { end_since_lost(launch, found); });
  }
  std::vector<std::vector<uint8_t>> wait_for(const std::vector<std::string>& keys,
                                             const std::stop_token& stop = {});

  Meeting meeting;
  std::unique_ptr<Monitor> monitor;
  ProcessGroups groups;
  const seconds timeout, slow_timeout;
  int64_t num_gathers = 0, step = 0;
  bool has_left = false;
};

Group::Group() = default;

Group::Group(const Launch& launch, const DistConfig& config, torch::Device device)
    : launch_(launch) {
  if (launch.world_size > 1) state_ = std::make_unique<State>(launch, config, device);
}

// The process that serves the store leaves last, or the others would find it gone.
Group::~Group() {
  leave("");
}

void Group::leave(const std::string& reason) {
  if (!state_ || std::exchange(state_->has_left, true)) return;
  // In this order: the reason can be read before connections close, by which others notice.
  state_->monitor->writes_reason(reason);
  if (!reason.empty()) state_->groups = {};
  state_->monitor->leaves();
}

std::string Group::backend() const {
  return state_ ? state_->groups.backend : "none";
}

const c10::intrusive_ptr<c10d::ProcessGroup>& Group::handle() const {
  return state_ ? state_->groups.tensors : kNoGroup;
}

const c10::intrusive_ptr<c10d::ProcessGroup>& Group::shard_handle() const {
  return state_ ? state_->groups.shard : kNoGroup;
}

const c10::intrusive_ptr<c10d::ProcessGroup>& Group::replica_handle() const {
  return state_ ? state_->groups.replicas : kNoGroup;
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
  } catch (const std::exception& failure) {
    if (!may_come_from_another(failure)) throw;
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
std::vector<std::vector<uint8_t>> Group::State::wait_for(const std::vector<std::string>& keys,
                                                         const std::stop_token& stop) {
  const auto deadline = std::chrono::steady_clock::now() + slow_timeout;
  Monitor::Silence silence;
  for (std::chrono::milliseconds pause{1};; pause = std::min(2 * pause, kBetweenLooks)) {
    if (monitor->ask([keys](c10d::Store& store) { return store.check(keys); })) break;
    std::this_thread::sleep_for(pause);
    if (stop.stop_requested()) C10_THROW_ERROR(DistStoreError, "stopped");
    if (pause < kBetweenLooks) continue;
    if (std::chrono::steady_clock::now() > deadline) C10_THROW_ERROR(DistStoreError, "timed out");
    if (monitor->longest_silence(silence) > std::min(kAlive, timeout)) {
      C10_THROW_ERROR(DistStoreError, "no sign of life");
    }
  }
  return monitor->ask([keys](c10d::Store& store) { return store.multiGet(keys); });
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
    for (const auto& bytes : state_->wait_for(keys)) texts.push_back(to_text(bytes));
    // Whoever is here has read those of the gather before.
    if (number == 0) return;
    state_->monitor->ask(
        [own = key(number - 1, rank())](c10d::Store& asked) { return asked.deleteKey(own); });
  });
  return texts;
}

void Group::post(const std::string& key, const std::string& text) {
  if (!state_) return;
  state_->monitor->ask([own = posted_key(key, rank()), text](c10d::Store& store) {
    store.set(own, to_bytes(text));
    return true;
  });
}

std::vector<std::string> Group::collect(const std::string& key, const std::stop_token& stop) {
  std::vector<std::string> keys, texts;
  for (int rank = 0; rank < size(); ++rank) keys.push_back(posted_key(key, rank));
  try {
    for (const auto& bytes : state_->wait_for(keys, stop)) texts.push_back(to_text(bytes));
  } catch (const c10::DistStoreError&) {
    throw Error(format("[dist] expected %s from all processes, got: %s", key.c_str(),
                       state_->monitor->find_lost().c_str()));
  }
  state_->monitor->ask([keys](c10d::Store& store) {
    for (const auto& taken : keys) store.deleteKey(taken);
    return true;
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
  } catch (const UsageError& mistake) {
    own = std::current_exception();
    outcome = std::string(kMistake) + mistake.what();
  } catch (const std::exception& failure) {
    own = std::current_exception();
    outcome = std::string(kFailure) + failure.what();
  }
  const auto outcomes = gather(outcome, what);
  if (own) std::rethrow_exception(own);
  for (size_t other = 0; other < outcomes.size(); ++other) {
    if (outcomes[other] == kWorked) continue;
    const std::string reason = outcomes[other].substr(1, outcomes[other].find('\n') - 1);
    const std::string text = format("[dist] process %d of %d stops, since %s could not %s: %s",
                                    rank(), size(), name_of(state_->meeting.members[other]).c_str(),
                                    std::string(what).c_str(), reason.c_str());
    if (outcomes[other].starts_with(kMistake)) throw UsageError(text);
    throw Error(text);
  }
}

}  // namespace crnet
