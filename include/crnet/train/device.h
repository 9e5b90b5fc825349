// Where a run computes, in which precision, and how fast that machine is.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "crnet/dist/launch.h"
#include "crnet/train/run_config.h"

namespace crnet {

/// The resolved choices of a run.
struct Runtime {
  torch::Device device = torch::kCPU;
  torch::ScalarType compute_dtype = torch::kFloat32;
  int64_t threads = 1;
};

/// Resolves device, precision and threads, and sets up LibTorch: its threads, cuBLAS (parts of bf16
/// sums are added up in fp32), and on a GPU an allocator whose segments expand, unless
/// PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF is set. Of several processes on a host each takes
/// the GPU of its local rank, and its share of the cores. `auto` takes CUDA where
/// there is a GPU, and bf16 where the device multiplies it natively (AVX512-BF16 or AMX on x86,
/// BF16 on Arm; on CUDA where a bf16 product is measured to be 1.5 times as fast as fp32). Throws
/// UsageError for CUDA without a usable GPU, or with fewer than processes.
Runtime select_runtime(const TrainConfig& config, const Launch& launch = {});

/// FLOP/s of large matrix products in this runtime's precision, measured for about a quarter of a
/// second: what a share of the peak is taken of.
double measure_peak_flops(const Runtime& runtime);

/// Gives a GPU's memory that measuring took back to it, and starts its peak afresh.
void forget_measurement(torch::Device device);

/// The most memory that this process has held: of the device's allocator on CUDA, resident on the
/// CPU. Bytes.
int64_t peak_memory_bytes(torch::Device device);

/// "AMD EPYC"; "CPU" where the system does not tell.
std::string cpu_name();
/// "AMD EPYC, 2 threads, bf16" or "NVIDIA H100 80GB HBM3 (cuda:0), bf16".
std::string describe(const Runtime& runtime);
/// "bf16", "fp32" or "fp64".
std::string dtype_name(torch::ScalarType dtype);

/// Has LibTorch keep the memory of CPU tensors that are freed, for the next ones, instead of
/// handing it back to the system and faulting it in again a moment later, which costs a training
/// step 125,000 page faults at 60M; and lay it out so that a step leaves few holes
/// (docs/performance.md). glibc keeps what else is freed. For the whole process, so it is for a
/// program to call, at its start; the crnet command does. It reserves as many addresses as the
/// machine has memory, or half of a limit on them (ulimit -v), and takes the place of LibTorch's
/// CPU allocator, unless the program has set one of a higher priority.
void keep_freed_memory();

}  // namespace crnet
