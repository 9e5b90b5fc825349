// Tells others that this process lives, and which of them do not.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "dist/meeting.h"
#include "dist/patience.h"

namespace crnet {

/// A thread that writes, every second, how far this process is; on the first process it also warns
/// of a step that takes 10 times the usual.
class Monitor {
 public:
  Monitor(Meeting meeting, int rank);
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  /// For operations that do not end by themselves where a process is lost, as NCCL's: once the next
  /// process by rank has written no beat while this one wrote `patience` (one a second), or another
  /// process has found one lost, `on_lost` gets find_lost()'s clause, in this object's thread.
  void watch(int patience, std::function<void(const std::string& found)> on_lost);

  /// A new step of training. `usual_seconds`: what one takes; 0: not known.
  void at_step(int64_t step, double usual_seconds);
  /// This process begins to wait for others, or is back at work ("").
  void waits_in(std::string_view operation);
  /// This process is about to end, with an error ("": none), which others may quote.
  void writes_reason(const std::string& reason);
  /// And ends; it waits for the others for a while if it serves the store.
  void leaves();
  /// What `question` gets from the store. Throws c10::DistStoreError where nothing comes in 5 s: no
  /// timeout of the store covers that its process is stopped.
  template <class Question>
  auto ask(Question question) {
    const auto answer =
        within(kAnswerWithin, [store = answers_, question] { return question(*store); });
    if (!answer) lose_store();
    return *answer;
  }
  /// The last beat of every process, and since when.
  struct Seen {
    int64_t count = 0;
    std::chrono::steady_clock::time_point since;
  };
  using Silence = std::vector<Seen>;
  /// The longest time, of all processes, in which one has written no beat, as far as calls with the
  /// same `silence`, at first empty, have seen.
  [[nodiscard]] std::chrono::seconds longest_silence(Silence& silence);

  /// One clause on who is lost, or late: for an error. Takes some seconds to find out, 10 at most.
  [[nodiscard]] std::string find_lost();

 private:
  using Clock = std::chrono::steady_clock;
  // What a process last wrote of itself.
  struct Beat {
    int64_t count = 0, step = 0, operations = 0;
    std::string operation, reason;
  };

  static constexpr std::chrono::milliseconds kAnswerWithin{5000};

  [[noreturn]] void lose_store();
  void run();
  void beat();
  void look_after_next();
  void give_up(const std::string& found);
  void write_beat(c10d::Store& store);
  void warn_if_slow();
  std::vector<Beat> read_beats();
  std::string compare_beats();
  [[nodiscard]] std::string latest(const std::vector<Beat>& beats) const;
  [[nodiscard]] std::string describe(size_t rank, const Beat& beat) const;

  const Meeting meeting_;
  const size_t rank_;
  // Opened while all is well: nobody answers a new connection to a process that is lost. One to
  // write beats by, one to read them.
  const StorePtr beats_, answers_;
  std::mutex mutex_;  // of what follows, up to patience_
  std::condition_variable wake_;
  bool ends_ = false, warned_ = false, store_is_lost_ = false;
  Beat own_;
  std::function<void(const std::string&)> on_lost_;  // none: nobody is looked after
  int patience_ = 0;
  std::atomic<int64_t> num_lost_ = 0;  // by find_lost()
  int64_t next_count_ = 0;  // of the thread, as the next: the last beat of the next process,
  int silent_beats_ = 0;    // and how many of this one's have been written since
  Clock::time_point step_began_;
  double usual_seconds_ = 0;
  std::thread thread_;
};

}  // namespace crnet
