#include "train/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <unordered_map>

namespace crnet {
namespace {

// Smaller ones fill the holes of the C library's heap.
constexpr size_t kSmallest = 32 << 10;
// Blocks are of whole lines, and nothing stands between them: where tensors of one size were,
// others fit that are a half or a third as large.
constexpr size_t kLine = 64;

constexpr size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

class TensorMemory : public c10::Allocator {
 public:
  TensorMemory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these watch single blocks
    const size_t size = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * page_;
    void* const range = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;
    begin_ = top_ = static_cast<char*>(range);
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

  void release(void* memory) {
    auto* const data = static_cast<char*>(memory);
    if (data < begin_ || data >= end_) return small().raw_deallocate(memory);
    c10::profiledCPUMemoryReporter().Delete(memory);
    put_back(data);
  }

  void return_free() {
    const std::lock_guard lock(mutex_);
    for (const auto& [block, size] : free_) return_pages(block, size);
    return_pages(top_, static_cast<size_t>(end_ - top_));
  }

 private:
  static c10::Allocator& small() {
    return *c10::GetDefaultCPUAllocator();
  }

  void* take(size_t size) {
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
    if (size > static_cast<size_t>(end_ - top_)) return nullptr;
    char* const block = top_;
    top_ += size;
    return block;
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

  void return_pages(char* from, size_t size) const {
    const auto first = round_up(reinterpret_cast<uintptr_t>(from), page_);
    const auto last = (reinterpret_cast<uintptr_t>(from) + size) / page_ * page_;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

  const size_t page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  char *begin_ = nullptr, *end_ = nullptr;
  std::mutex mutex_;
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

void return_free_tensor_memory() {
  instance().return_free();
}

}  // namespace crnet
