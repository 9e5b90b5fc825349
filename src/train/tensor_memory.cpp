#include "train/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace crnet {
namespace {

// Smaller ones, which are many, are left to the C library: of a step's tensors they are 1 %.
constexpr size_t kSmallest = 32 << 10;
// Blocks are of whole lines, and nothing stands between them: where tensors of one size were,
// others fit that are a half or a third as large.
constexpr size_t kLine = 64;
// The range is made usable step by step, since a system may count what is.
constexpr size_t kGrowth = 64 << 20;

constexpr size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// As much as the machine has; of a limit on addresses a half.
size_t size_of_range() {
  const auto memory =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  rlimit limit{};
  const bool has_limit = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return has_limit ? std::min<size_t>(memory, limit.rlim_cur / 2) : memory;
}

class TensorMemory : public c10::Allocator {
 public:
  TensorMemory() {
#if !defined(CRNET_SANITIZE)
    const size_t size = size_of_range() / kGrowth * kGrowth;
    void* const range =
        mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;
    begin_ = top_ = usable_ = static_cast<char*>(range);
    end_ = begin_ + size;
#endif
  }

  c10::DataPtr allocate(size_t size) override {
    void* memory = size < kSmallest ? nullptr : take(size);
    if (memory != nullptr) {
      c10::profiledCPUMemoryReporter().New(memory, size);
    } else {
      memory = small().raw_allocate(size);
    }
    return {memory, memory, raw_deleter(), c10::DeviceType::CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }

  [[nodiscard]] bool holds(const void* block) const {
    return block >= begin_ && block < end_;
  }

  void release(void* memory) {
    if (!holds(memory)) return small().raw_deallocate(memory);
    c10::profiledCPUMemoryReporter().Delete(memory);
    put_back(static_cast<char*>(memory));
  }

  void return_free() {
    const std::lock_guard lock(mutex_);
    for (const auto& [block, size] : free_) return_pages(block, size);
    return_pages(top_, static_cast<size_t>(usable_ - top_));
  }

 private:
  static c10::Allocator& small() {
    return *c10::GetDefaultCPUAllocator();
  }

  void* take(size_t size) {
    if (size > static_cast<size_t>(end_ - begin_)) return nullptr;
    size = round_up(size, kLine);
    const std::lock_guard lock(mutex_);
    char* const block = find(size);
    if (block != nullptr) used_.emplace(block, size);
    return block;
  }

  // The lowest is the best: a step's activations lie like a stack, and what stays of them settles
  // below.
  char* find(size_t size) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      if (range->second < size) continue;
      auto node = free_.extract(range);
      char* const block = node.key();
      if (node.mapped() > size) {
        node.key() += size;
        node.mapped() -= size;
        free_.insert(std::move(node));
      }
      return block;
    }
    if (size > static_cast<size_t>(end_ - top_) || !make_usable(top_ + size)) return nullptr;
    char* const block = top_;
    top_ += size;
    return block;
  }

  bool make_usable(char* end) {
    if (end <= usable_) return true;
    const size_t growth = round_up(static_cast<size_t>(end - usable_), kGrowth);
    if (mprotect(usable_, growth, PROT_READ | PROT_WRITE) != 0) return false;
    usable_ += growth;
    return true;
  }

  // Free ranges never touch each other, nor the top.
  void put_back(char* block) {
    const std::lock_guard lock(mutex_);
    const auto used = used_.find(block);
    size_t size = used->second;
    used_.erase(used);
    auto next = free_.lower_bound(block);
    if (next != free_.end() && block + size == next->first) {
      size += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == block) {
        block = previous->first;
        size += previous->second;
        next = free_.erase(previous);
      }
    }
    if (block + size == top_) {
      top_ = block;
    } else {
      free_.emplace_hint(next, block, size);
    }
  }

  static void return_pages(char* from, size_t size) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<uintptr_t>(from);
    const size_t first = round_up(address, page), last = (address + size) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

  char *begin_ = nullptr, *end_ = nullptr;
  std::mutex mutex_;
  char* usable_ = nullptr;        // below it the range may be read and written
  char* top_ = nullptr;           // above it nothing is in use
  std::map<char*, size_t> free_;  // below it
  std::unordered_map<char*, size_t> used_;
};

// Tensors may be freed after everything else.
TensorMemory& instance() {
  static TensorMemory& memory = *new TensorMemory;
  return memory;
}

c10::DeleterFnPtr TensorMemory::raw_deleter() const {
  return [](void* memory) { instance().release(memory); };
}

}  // namespace

c10::Allocator& tensor_memory() {
  return instance();
}

bool is_in_tensor_memory(const void* block) {
  return instance().holds(block);
}

void return_free_tensor_memory() {
  instance().return_free();
}

}  // namespace crnet
