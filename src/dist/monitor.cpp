#include "dist/monitor.h"

#include <c10/util/Exception.h>
#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>

#include "crnet/core/format.h"
#include "crnet/core/log.h"

namespace crnet {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenBeats{1000};
// Without a beat for so long a process is taken for dead or stopped.
constexpr milliseconds kSilence{3500};
// So long the process that serves the store stays after a failure, for others to ask who is lost.
constexpr milliseconds kLinger{10000};
constexpr double kSlow = 10, kLeastSlowSeconds = 5;

constexpr const char* kFoundKey = "found";

std::string beat_key(size_t rank) {
  return format("beat/%zu", rank);
}

// Empty for keys that are not there: who is lost early has written nothing.
std::vector<std::vector<uint8_t>> get_present(c10d::Store& store,
                                              const std::vector<std::string>& keys) {
  if (store.check(keys)) return store.multiGet(keys);
  std::vector<std::vector<uint8_t>> values;
  for (const auto& key : keys) {
    values.push_back(store.check({key}) ? store.get(key) : std::vector<uint8_t>{});
  }
  return values;
}

}  // namespace

Monitor::Monitor(Meeting meeting, int rank)
    : meeting_(std::move(meeting)),
      rank_(static_cast<size_t>(rank)),
      beats_(meeting_.store->clone()),
      answers_(meeting_.store->clone()),
      step_began_(Clock::now()) {
  answers_->setTimeout(kAnswerWithin);
  write_beat(*meeting_.store);
  thread_ = std::thread([this] { run(); });
}

Monitor::~Monitor() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Monitor::watch(int patience, std::function<void(const std::string&)> on_lost) {
  const std::lock_guard lock(mutex_);
  patience_ = patience;
  on_lost_ = std::move(on_lost);
}

void Monitor::at_step(int64_t step, double usual_seconds) {
  const std::lock_guard lock(mutex_);
  own_.step = step;
  usual_seconds_ = usual_seconds;
  step_began_ = Clock::now();
  warned_ = false;
}

void Monitor::waits_in(std::string_view operation) {
  const std::lock_guard lock(mutex_);
  own_.operation = operation;
  if (!operation.empty()) own_.operations += 1;
}

void Monitor::writes_reason(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    own_.reason = reason;
    on_lost_ = nullptr;  // who goes now is not lost
    if (store_is_lost_) return;
  }
  try {
    write_beat(*beats_);
  } catch (const std::exception&) {  // the store is lost
  }
}

void Monitor::leaves() {
  {
    const std::lock_guard lock(mutex_);
    if (store_is_lost_) return;
  }
  try {
    const auto count_left = [this](int64_t more) {
      return ask([more](c10d::Store& store) { return store.add("left", more); });
    };
    const auto deadline = Clock::now() + kLinger;
    const auto living = std::ssize(meeting_.members) - num_lost_;
    auto left = count_left(1);
    while (rank_ == 0 && left < living && Clock::now() < deadline) {
      std::this_thread::sleep_for(milliseconds(20));
      left = count_left(0);
    }
  } catch (const std::exception&) {  // the store is lost
  }
}

void Monitor::lose_store() {
  {
    const std::lock_guard lock(mutex_);
    store_is_lost_ = true;
  }
  C10_THROW_ERROR(DistStoreError, "process 0 does not answer");
}

void Monitor::run() {
  sigset_t all;  // signals are for the main thread
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  try {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        if (wake_.wait_for(lock, kBetweenBeats, [this] { return ends_; })) return;
      }
      beat();
    }
  } catch (const std::exception&) {
    // The store is gone: the main thread will find out in its own next operation, if that ends.
    give_up("lost: " + name_of(meeting_.members[0]) + ", which served the rendezvous");
  }
}

void Monitor::beat() {
  write_beat(*beats_);
  look_after_next();
  if (rank_ != 0) return;
  try {
    warn_if_slow();
  } catch (const std::exception&) {  // others may still see this process's beats
  }
}

// One other process each, so that the store has as little to do for thousands. Counted in beats: a
// job that is suspended as a whole must not take its processes for dead when it goes on.
void Monitor::look_after_next() {
  {
    const std::lock_guard lock(mutex_);
    if (!on_lost_) return;
  }
  if (ask([](c10d::Store& store) { return store.check({kFoundKey}); })) return give_up(find_lost());
  const auto key = beat_key((rank_ + 1) % meeting_.members.size());
  const auto beat = ask([key](c10d::Store& store) { return store.get(key); });
  const int64_t count = Json::parse(to_text(beat))[0];
  silent_beats_ = count == next_count_ ? silent_beats_ + 1 : 0;
  next_count_ = count;
  if (silent_beats_ > patience_) give_up(find_lost());
}

void Monitor::give_up(const std::string& found) {
  std::function<void(const std::string&)> on_lost;
  {
    const std::lock_guard lock(mutex_);
    on_lost = std::exchange(on_lost_, nullptr);
  }
  if (!on_lost) return;
  if (rank_ == 0) std::this_thread::sleep_for(3 * kBetweenBeats);  // for others to read it
  on_lost(found);
}

void Monitor::write_beat(c10d::Store& store) {
  Json json;
  {
    const std::lock_guard lock(mutex_);
    own_.count += 1;
    json = {own_.count, own_.step, own_.operations, own_.operation, own_.reason};
  }
  store.set(beat_key(rank_), to_bytes(json.dump()));
}

std::vector<Monitor::Beat> Monitor::read_beats() {
  std::vector<std::string> keys;
  for (size_t rank = 0; rank < meeting_.members.size(); ++rank) keys.push_back(beat_key(rank));
  const auto answer = ask([keys](c10d::Store& store) { return get_present(store, keys); });
  std::vector<Beat> beats;
  for (const auto& bytes : answer) {
    if (bytes.empty()) {
      beats.emplace_back();
      continue;
    }
    const Json json = Json::parse(to_text(bytes));
    beats.push_back({json[0], json[1], json[2], json[3], json[4]});
  }
  return beats;
}

std::chrono::seconds Monitor::longest_silence(Silence& silence) {
  const auto beats = read_beats();
  const auto now = Clock::now();
  silence.resize(beats.size(), {0, now});
  auto longest = Clock::duration::zero();
  for (size_t rank = 0; rank < beats.size(); ++rank) {
    if (beats[rank].count != silence[rank].count) silence[rank] = {beats[rank].count, now};
    longest = std::max(longest, now - silence[rank].since);
  }
  return std::chrono::duration_cast<std::chrono::seconds>(longest);
}

std::string Monitor::describe(size_t rank, const Beat& beat) const {
  return format("%s, last seen at step %ld%s%s", name_of(meeting_.members[rank]).c_str(),
                static_cast<long>(beat.step), beat.operation.empty() ? "" : ", in ",
                beat.operation.c_str());
}

// Everybody's operations come in one order, so who has begun the fewest is late.
std::string Monitor::latest(const std::vector<Beat>& beats) const {
  const auto by_operations = [](const Beat& a, const Beat& b) {
    return a.operations < b.operations;
  };
  const auto [late, early] = std::minmax_element(beats.begin(), beats.end(), by_operations);
  if (late->operations == early->operations) {
    return format("nobody, all are at step %ld in %s", static_cast<long>(late->step),
                  late->operation.c_str());
  }
  return describe(static_cast<size_t>(late - beats.begin()), *late);
}

void Monitor::warn_if_slow() {
  int64_t step = 0;
  double seconds = 0, usual = 0;
  {
    const std::lock_guard lock(mutex_);
    step = own_.step;
    usual = usual_seconds_;
    seconds = std::chrono::duration<double>(Clock::now() - step_began_).count();
    if (warned_ || usual <= 0 || seconds < std::max(kSlow * usual, kLeastSlowSeconds)) return;
    warned_ = true;
  }
  log::warn(format("step %ld takes %.0f s, where one usually takes %.2g s; latest: %s",
                   static_cast<long>(step), seconds, usual, latest(read_beats()).c_str()));
}

// The first to find out writes it down: by the time that all have noticed, there may be more that
// are gone.
std::string Monitor::find_lost() {
  try {
    if (ask([](c10d::Store& store) { return store.check({kFoundKey}); })) {
      return to_text(ask([](c10d::Store& store) { return store.get(kFoundKey); }));
    }
    const std::string found = compare_beats();
    ask([found](c10d::Store& store) {
      store.set(kFoundKey, to_bytes(found));
      return true;
    });
    return found;
  } catch (const std::exception&) {
    return "lost: " + name_of(meeting_.members[0]) + ", which served the rendezvous";
  }
}

std::string Monitor::compare_beats() {
  const auto before = read_beats();
  std::this_thread::sleep_for(kSilence);
  const auto after = read_beats();
  std::string lost, stopped;
  num_lost_ = 0;
  for (size_t rank = 0; rank < after.size(); ++rank) {
    const Beat& beat = after[rank];
    if (rank == rank_) continue;
    if (!beat.reason.empty()) {
      stopped = name_of(meeting_.members[rank]) + " stopped: " + beat.reason;
    } else if (beat.count == before[rank].count) {
      num_lost_ += 1;
      lost += (lost.empty() ? "lost: " : "; ") + describe(rank, beat);
    }
  }
  if (!lost.empty()) return lost;
  return stopped.empty() ? "late: " + latest(after) : stopped;
}

}  // namespace crnet
