// How the processes of a run share the work of a step: gradients are averaged, and what is updated
// may be split.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "crnet/dist/config.h"
#include "crnet/dist/group.h"
#include "crnet/interop/tensor_pieces.h"

namespace crnet {

/// Parameters that are used together, with their names, in the order of the forward pass.
struct ParameterUnit {
  NamedTensors parameters;
  /// Where parameters are split: what its matrices are gathered in, and their gradients made in.
  torch::ScalarType dtype = torch::kFloat32;
};

/// Every parameter must get a gradient in every backward pass.
///
/// Replicated (Sharding::kNone) every process has and updates everything; c10d::Reducer averages a
/// bucket of gradients as soon as the backward pass has made its last one, and gradients become
/// views of the buckets.
///
/// Sharded, a process updates an equal part of every unit, in fp32; gradients are summed where they
/// are updated, a unit at a time while the backward pass goes on (ZeRO-1, arXiv 1910.02054). The
/// parameters themselves become views of what is gathered from the parts: for good after an update,
/// or (Sharding::kParameters) around each use, with the next unit's on their way.
///
/// In both cases that happens block by block under every strategy of recomputation as well.
class DataParallel {
 public:
  virtual ~DataParallel() = default;

  /// What this process updates, by bucket: where gradients are after backward(), and where new
  /// values go.
  [[nodiscard]] virtual std::vector<std::vector<TensorPiece>> pieces() const = 0;
  /// The number of processes that update the same pieces, and which of them this is, from 0.
  [[nodiscard]] virtual int copies() const = 0;
  [[nodiscard]] virtual int copy() const = 0;

  /// Makes what the processes have one: of what several update, the first one's values.
  virtual void synchronize() = 0;
  /// loss.backward(). With `reduce`, every piece's gradient is the mean over the processes of what
  /// has been accumulated there when it returns; without, it stays their own (inner micro-batches).
  virtual void backward(const torch::Tensor& loss, bool reduce) = 0;
  /// The pieces of a bucket have new values, which are handed on while this returns.
  virtual void updated(size_t bucket) = 0;

  /// A unit's parameters are about to be read, in the forward pass or not, and have been; in pairs.
  virtual void before_use(size_t unit, bool forward) = 0;
  virtual void after_use(size_t unit) = 0;
  /// Whether a forward pass needs the others, so that all have to make as many.
  [[nodiscard]] virtual bool forward_communicates() const = 0;
};

/// `group` must outlive it. `device`: where sharded parameters live from now on; replicated ones
/// stay where they are.
[[nodiscard]] std::unique_ptr<DataParallel> make_data_parallel(
    Group& group, const std::vector<ParameterUnit>& units, const DistConfig& config,
    torch::Device device);

/// Whether parameters are split in such a group.
[[nodiscard]] bool is_sharded(const DistConfig& config, int num_processes);

}  // namespace crnet
