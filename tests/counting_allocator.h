// Counts the bytes that tensors hold on the CPU.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

namespace crnet::testing {

/// While one lives, every CPU tensor's memory is counted. One at a time.
class CountingAllocator : public c10::Allocator {
 public:
  CountingAllocator() : inner_(c10::GetCPUAllocator()) {
    counts().inner = inner_;
    counts().live = counts().peak = 0;
    counts().sizes.clear();
    c10::SetCPUAllocator(this, /*priority=*/100);
  }
  ~CountingAllocator() override { c10::SetCPUAllocator(inner_, /*priority=*/100); }

  [[nodiscard]] static int64_t live_bytes() { return counts().live; }
  [[nodiscard]] static int64_t peak_bytes() { return counts().peak; }
  static void reset_peak() { counts().peak = counts().live; }

  c10::DataPtr allocate(size_t size) override {
    // LibTorch also asks for raw memory, so the context has to be the memory itself.
    void* memory = inner_->raw_allocate(size);
    auto& c = counts();
    const std::lock_guard lock(c.mutex);
    c.sizes[memory] = static_cast<int64_t>(size);
    c.live += static_cast<int64_t>(size);
    c.peak = std::max(c.peak, c.live);
    return {memory, memory, &release, c10::DeviceType::CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }

 private:
  struct Counts {
    std::mutex mutex;
    std::unordered_map<void*, int64_t> sizes;
    int64_t live = 0, peak = 0;
    c10::Allocator* inner = nullptr;
  };
  // Tensors may outlive the allocator object, so what their release touches must not be in it.
  static Counts& counts() {
    static Counts instance;
    return instance;
  }
  static void release(void* memory) {
    auto& c = counts();
    {
      const std::lock_guard lock(c.mutex);
      const auto found = c.sizes.find(memory);
      if (found != c.sizes.end()) {
        c.live -= found->second;
        c.sizes.erase(found);
      }
    }
    c.inner->raw_deallocate(memory);
  }

  c10::Allocator* inner_;
};

}  // namespace crnet::testing
