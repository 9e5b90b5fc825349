#include "crnet/train/device.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <torch/cuda.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <thread>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "ops/product.h"
#include "train/tensor_memory.h"

namespace crnet {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void synchronize(torch::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}

// FLOP/s of the fastest of the n×n products that fit into `budget` seconds.
double product_rate(torch::Device device, torch::ScalarType dtype, int64_t n, double budget) {
  const torch::NoGradGuard no_grad;
  const auto options = torch::TensorOptions().device(device).dtype(dtype);
  const torch::Tensor a = torch::rand({n, n}, options), b = torch::rand({n, n}, options);
  torch::Tensor c = product_of(a, b);  // warm-up
  synchronize(device);
  double best = 1e30;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    store_product(c, a, b);
    synchronize(device);
    best = std::min(best, seconds_since(begin));
  } while (seconds_since(start) < budget);
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / best;
}

// The value of the first line of /proc/cpuinfo with this key; "" where there is none.
std::string cpuinfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with(key) && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

// Asked of the driver, which LibTorch has loaded: its own calls for this want CUDA's headers. ""
// where the driver does not answer.
std::string gpu_name(int index) {
  using GetDevice = int(int* device, int ordinal);
  using GetName = int(char* name, int length, int device);
  const auto close = [](void* library) { dlclose(library); };
  const std::unique_ptr<void, decltype(close)> driver(
      dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD));
  if (!driver) return "";
  auto* const get_device = reinterpret_cast<GetDevice*>(dlsym(driver.get(), "cuDeviceGet"));
  auto* const get_name = reinterpret_cast<GetName*>(dlsym(driver.get(), "cuDeviceGetName"));
  if (get_device == nullptr || get_name == nullptr) return "";
  int device = 0;
  std::array<char, 256> name{};
  const bool answered = get_device(&device, index) == 0 &&
                        get_name(name.data(), static_cast<int>(name.size()) - 1, device) == 0;
  return answered ? name.data() : "";
}

// On a CPU not by measuring: processes have to agree, and a resumed run to go on as it was.
bool multiplies_bf16_natively(torch::Device device) {
  if (!device.is_cuda()) {
    const std::string flags =
        format(" %s %s ", cpuinfo("flags").c_str(), cpuinfo("Features").c_str());
    return flags.find(" avx512_bf16 ") != std::string::npos ||
           flags.find(" amx_bf16 ") != std::string::npos ||
           flags.find(" bf16 ") != std::string::npos;
  }
  return product_rate(device, torch::kBFloat16, 4096, 0.05) >
         1.5 * product_rate(device, torch::kFloat32, 4096, 0.05);
}

// The cores that this process may use; where no launcher has dealt them out, its share.
int64_t share_of_cores(int num_processes) {
  const auto all = std::max<int64_t>(1, std::thread::hardware_concurrency());
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return all;
  const int64_t cores = CPU_COUNT(&allowed);
  const bool dealt_out = cores < sysconf(_SC_NPROCESSORS_ONLN);
  return dealt_out ? cores : std::max<int64_t>(1, cores / num_processes);
}

torch::Device select_device(DeviceChoice choice, const Launch& launch) {
  const bool available = torch::cuda::is_available();
  if (choice == DeviceChoice::kCuda && !available) {
    throw UsageError(
        "[train] train.device: expected a CUDA GPU, got none that LibTorch can use; check "
        "nvidia-smi, CUDA_VISIBLE_DEVICES, that the loader finds libcuda.so.1 (else crnet runs as "
        "crnet-cpu) and that LibTorch is a CUDA build, or use --set train.device=cpu");
  }
  if (choice == DeviceChoice::kCpu || !available) return torch::kCPU;
  const auto count = static_cast<int>(torch::cuda::device_count());
  // A launcher that gives each process its own GPU shows it that one alone.
  if (count == 1 && std::getenv("CUDA_VISIBLE_DEVICES") != nullptr) return {torch::kCUDA, 0};
  if (launch.local_rank >= count) {
    throw UsageError(
        format("[train] process %d: expected a GPU for each of the %d processes on this host, got "
               "%d; start fewer, or use --set train.device=cpu",
               launch.rank, launch.local_world_size, count));
  }
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(launch.local_rank)};
}

// Ranges of a GPU's addresses that grow, so that what is free in pieces serves a large tensor too,
// unless the user has said something else. Before the first tensor there.
void let_segments_grow() {
  for (const char* variable : {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}) {
    if (std::getenv(variable) != nullptr) return;
  }
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
}

}  // namespace

Runtime select_runtime(const TrainConfig& config, const Launch& launch) {
  Runtime runtime;
  runtime.device = select_device(config.device, launch);
  // Of what is measured, too, and what LibTorch puts on "the" GPU.
  if (runtime.device.is_cuda()) {
    let_segments_grow();
    at::accelerator::setDeviceIndex(runtime.device.index());
  }
  // Parts of a sum are added up in fp32, never in bf16.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  runtime.threads = config.threads > 0 ? config.threads : share_of_cores(launch.local_world_size);
  torch::set_num_threads(static_cast<int>(runtime.threads));
  const bool bf16 = config.precision == PrecisionChoice::kAuto
                        ? multiplies_bf16_natively(runtime.device)
                        : config.precision == PrecisionChoice::kBf16;
  runtime.compute_dtype = bf16 ? torch::kBFloat16 : torch::kFloat32;
  return runtime;
}

double measure_peak_flops(const Runtime& runtime) {
  const int64_t n = runtime.device.is_cuda() ? 8192 : 1024;
  const double rate = product_rate(runtime.device, runtime.compute_dtype, n, 0.25);
  forget_measurement(runtime.device);
  return rate;
}

void forget_measurement(torch::Device device) {
  if (!device.is_cuda()) return;
  auto* allocator = c10::getDeviceAllocator(torch::kCUDA);
  allocator->emptyCache();
  allocator->resetPeakStats(device.has_index() ? device.index() : c10::DeviceIndex(0));
}

int64_t peak_memory_bytes(torch::Device device) {
  if (device.is_cuda()) {
    auto* allocator = c10::getDeviceAllocator(torch::kCUDA);
    const auto stats =
        allocator->getDeviceStats(device.has_index() ? device.index() : c10::DeviceIndex(0));
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
        .peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

std::string dtype_name(torch::ScalarType dtype) {
  if (dtype == torch::kBFloat16) return "bf16";
  return dtype == torch::kFloat64 ? "fp64" : "fp32";
}

std::string cpu_name() {
  const std::string name = cpuinfo("model name");
  return name.empty() ? "CPU" : name;
}

std::string describe(const Runtime& runtime) {
  const std::string precision = dtype_name(runtime.compute_dtype);
  if (!runtime.device.is_cuda()) {
    return format("%s, %ld threads, %s", cpu_name().c_str(), static_cast<long>(runtime.threads),
                  precision.c_str());
  }
  const std::string name = gpu_name(std::max<int>(0, runtime.device.index()));
  return format("%s (%s), %s", name.empty() ? "CUDA device" : name.c_str(),
                runtime.device.str().c_str(), precision.c_str());
}

void keep_freed_memory() {
#if defined(__GLIBC__)
  // For what is no tensor, such as the working memory of LibTorch's libraries.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 2000000000);
  mallopt(M_ARENA_MAX, 1);
#endif
  c10::SetCPUAllocator(&tensor_memory());
}

}  // namespace crnet
