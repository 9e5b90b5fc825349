// The processes of one run, and what they say to each other.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/dist/launch.h"

namespace c10d {
class ProcessGroup;
}

namespace crnet {

/// All processes call the same members in the same order. Where one is lost, the others throw Error
/// that names it, its host, and where it was last seen: at once where its connections close, after
/// DistConfig::timeout_s where it is silent. A group of one process does nothing, and costs
/// nothing.
class Group {
 public:
  /// This process alone.
  Group();
  /// Meets the others at the launch's rendezvous. Throws Error where they do not all come within
  /// DistConfig::start_timeout_s, the address is taken or out of reach, or somebody else's
  /// processes are met there.
  Group(const Launch& launch, const DistConfig& config, torch::Device device);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  [[nodiscard]] int rank() const { return launch_.rank; }
  [[nodiscard]] int size() const { return launch_.world_size; }
  [[nodiscard]] bool is_first() const { return launch_.rank == 0; }
  [[nodiscard]] const Launch& launch() const { return launch_; }
  /// "gloo" or "nccl"; what gradients travel by.
  [[nodiscard]] std::string backend() const;

  /// The sums of each number over all processes.
  [[nodiscard]] std::vector<double> sum(std::vector<double> values, std::string_view what);
  /// Every process's text, by rank. For seldom use: it goes through the first process's store.
  [[nodiscard]] std::vector<std::string> gather(const std::string& text, std::string_view what);
  /// Throws UsageError on every process where a text differs from the first process's of that name.
  /// `texts`: names and texts, the same names in one order everywhere.
  void expect_same(const std::vector<std::pair<std::string, std::string>>& texts);

  /// Calls `work` here; returns its result once every process has called its own. Where it threw on
  /// one, it throws on all: there its own exception, elsewhere Error that names that process.
  template <class Work>
  auto together(std::string_view what, const Work& work) {
    if constexpr (std::is_void_v<std::invoke_result_t<Work>>) {
      run_together(what, work);
    } else {
      std::optional<std::invoke_result_t<Work>> result;
      run_together(what, [&] { result.emplace(work()); });
      return std::move(*result);
    }
  }

  /// This process stops for a reason of its own, which the others may then quote.
  void leave(const std::string& reason);

  /// Calls `work`, which communicates by handle(); turns a failure of that into the Error above.
  void communicate(std::string_view what, const std::function<void()>& work);
  /// What c10d's own classes take; null in a group of one process.
  [[nodiscard]] const c10::intrusive_ptr<c10d::ProcessGroup>& handle() const;
  /// Of the processes among which parameters are split (DistConfig::shard_group), and of those that
  /// have the same part of them; null where there is nothing to split, and no other with that part.
  [[nodiscard]] const c10::intrusive_ptr<c10d::ProcessGroup>& shard_handle() const;
  [[nodiscard]] const c10::intrusive_ptr<c10d::ProcessGroup>& replica_handle() const;

  /// For a thread in the background, while the others are used: leaves a text for a key.
  void post(const std::string& key, const std::string& text);
  /// Waits until every process has posted for `key`, and takes the texts, by rank. Called on one
  /// process. Throws Error after DistConfig::slow_timeout_s, and where `stop` asks to stop.
  [[nodiscard]] std::vector<std::string> collect(const std::string& key,
                                                 const std::stop_token& stop);

  /// Where this process stands, for the others to tell if it is lost; and how long a step takes
  /// usually, in seconds: the first process warns, with the name of the latest, of one that takes
  /// 10 times as long (0: never).
  void at_step(int64_t step, double usual_seconds);

 private:
  struct State;
  void run_together(std::string_view what, const std::function<void()>& work);

  Launch launch_;
  std::unique_ptr<State> state_;  // null where this process is alone
};

}  // namespace crnet
