#include "crnet/data/loader.h"

#include <torch/cuda.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

void require(bool holds, const char* what, int64_t got) {
  if (holds) return;
  throw UsageError(format("[loader] expected %s, got %ld", what, static_cast<long>(got)));
}

void validate(const LoaderOptions& options) {
  require(options.batch >= 1, "a batch of 1 or more", options.batch);
  require(options.world_size >= 1, "1 or more processes", options.world_size);
  require(options.process >= 0 && options.process < options.world_size,
          "a process number from 0 to world_size - 1", options.process);
  require(options.start_position >= 0, "a start position of 0 or more", options.start_position);
}

// Reads the given windows into fresh tensors.
Batch read_batch(const TokenWindows& windows, const std::vector<int64_t>& indices, bool pin) {
  RECORD_USER_SCOPE("crnet::read_batch");
  const auto length = windows.sequence_length();
  const std::vector<int64_t> shape{static_cast<int64_t>(indices.size()), length};
  const auto options = torch::TensorOptions().dtype(torch::kInt64).pinned_memory(pin);
  Batch batch{torch::empty(shape, options), torch::empty(shape, options)};
  auto* inputs = batch.inputs.data_ptr<int64_t>();
  auto* targets = batch.targets.data_ptr<int64_t>();
  const auto size = static_cast<size_t>(length);
  for (const int64_t index : indices) {
    windows.read(index, {inputs, size}, {targets, size});
    inputs += length;
    targets += length;
  }
  return batch;
}

// The global sequence of samples.
class Samples {
 public:
  Samples(int64_t num_windows, uint64_t seed) : order_(num_windows, seed), seed_(seed) {}

  int64_t window(int64_t sample) {
    const int64_t epoch = sample / order_.size();
    if (epoch != epoch_) order_ = WindowOrder(order_.size(), seed_, epoch);
    epoch_ = epoch;
    return order_.at(sample % order_.size());
  }

 private:
  WindowOrder order_;
  uint64_t seed_;
  int64_t epoch_ = 0;
};

}  // namespace

struct Loader::State {
  State(const DataSet& dataset, const LoaderOptions& chosen)
      : options(chosen),
        windows(dataset, chosen.sequence_length),
        samples(windows.count(), chosen.seed),
        position(chosen.start_position),
        pin(chosen.pin_memory && torch::cuda::is_available()) {
    worker = std::jthread([this](const std::stop_token& stop) { fill(stop); });
  }

  // The thread that keeps the queue full. A failure ends it and is thrown by next().
  void fill(const std::stop_token& stop) {
    constexpr size_t kQueueLength = 2;
    int64_t first = options.start_position + options.process * options.batch;
    try {
      for (;; first += options.world_size * options.batch) {
        auto batch = make(first);
        std::unique_lock lock(mutex);
        rests = true;
        changed.notify_all();
        changed.wait(lock, stop, [&] { return ready.size() < kQueueLength; });
        if (stop.stop_requested()) return;
        rests = false;
        ready.push_back(std::move(batch));
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
      changed.notify_all();
    }
  }

  Batch make(int64_t first) {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < options.batch; ++i) indices.push_back(samples.window(first + i));
    return read_batch(windows, indices, pin);
  }

  Batch take() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !ready.empty() || failure != nullptr; });
    if (ready.empty()) std::rethrow_exception(failure);
    auto batch = std::move(ready.front());
    ready.pop_front();
    changed.notify_all();
    return batch;
  }

  void wait_until_full() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return rests || failure != nullptr; });
  }

  const LoaderOptions options;
  const TokenWindows windows;
  Samples samples;  // Of the worker alone.
  int64_t position;
  const bool pin;
  std::mutex mutex;  // Guards what follows.
  std::condition_variable_any changed;
  std::deque<Batch> ready;
  std::exception_ptr failure;
  bool rests = false;   // The worker waits for room.
  std::jthread worker;  // Last: it stops before what it uses goes.
};

Loader::Loader(const DataSet& dataset, const LoaderOptions& options) {
  validate(options);
  state_ = std::make_unique<State>(dataset, options);
}

Loader::~Loader() = default;
Loader::Loader(Loader&&) noexcept = default;
Loader& Loader::operator=(Loader&&) noexcept = default;

Batch Loader::next() {
  auto batch = state_->take();
  state_->position += state_->options.world_size * state_->options.batch;
  return batch;
}

void Loader::wait_until_full() const {
  state_->wait_until_full();
}

int64_t Loader::position() const {
  return state_->position;
}
int64_t Loader::num_windows() const {
  return state_->windows.count();
}

SequentialWindows::SequentialWindows(const DataSet& dataset, int64_t batch, int64_t sequence_length,
                                     int64_t max_windows, int64_t world_size, int64_t process)
    : windows_(dataset, sequence_length),
      batch_(batch),
      num_windows_(max_windows > 0 ? std::min(max_windows, windows_.count()) : windows_.count()),
      stride_(world_size * batch),
      next_window_(process * batch) {
  validate({.batch = batch,
            .sequence_length = sequence_length,
            .world_size = world_size,
            .process = process});
}

std::optional<Batch> SequentialWindows::next() {
  if (next_window_ >= num_windows_) return std::nullopt;
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < batch_ && next_window_ + i < num_windows_; ++i) {
    indices.push_back(next_window_ + i);
  }
  next_window_ += stride_;
  return read_batch(windows_, indices, /*pin=*/false);
}

}  // namespace crnet
