// Files of named tensors in the safetensors format, as Python's `safetensors` writes and reads it:
//
//   8 bytes   length N of the header, little-endian
//   N bytes   JSON: {"__metadata__": {string: string}, name: {dtype, shape, data_offsets}, …},
//             padded with spaces so that the data starts at a multiple of 8
//   the rest  the tensors' values, row-major, without holes
//
// Dtypes: F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "crnet/core/file.h"

namespace crnet {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;
using Metadata = std::map<std::string, std::string>;

/// Writes `tensors` (any device, any strides) to a new file and flushes it to the disk. Wider
/// dtypes come first, then by name, so that every tensor is aligned; equal input gives equal bytes.
/// One tensor at a time is copied, and only where it is not contiguous on the CPU already.
/// Returns the digest of what was written. Throws Error for a name that comes twice, an undefined
/// or sparse tensor, a dtype that is not listed above, a failing write, and where `stop` asks to
/// stop before the last tensor; the last two leave a partial file behind.
FileDigest save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                            const Metadata& metadata = {}, const std::stop_token& stop = {});

/// The same for tensors that are made when their turn comes: `shapes` have names, shapes and
/// dtypes, on any device (kMeta needs no memory); `load` gives the values.
FileDigest save_safetensors(const std::filesystem::path& path, const NamedTensors& shapes,
                            const Metadata& metadata,
                            const std::function<torch::Tensor(const std::string& name)>& load);

/// A tensor's place in a file.
struct TensorInfo {
  torch::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t offset;  ///< From the start of the file, in bytes.
  uint64_t bytes;
};

/// An open file. Opening reads and checks the header alone; values are read when they are asked
/// for. They are read and not mapped, so that a file that shrinks meanwhile, or a failing disk, is
/// an Error and not the end of the process. Every Error names the file, and the tensor if there is
/// one at fault.
class SafetensorsFile {
 public:
  /// Throws Error where the file is not a sound safetensors file: the header is cut off, is not
  /// JSON or has a name twice; a size does not fit its shape; offsets overlap, leave holes, or do
  /// not cover the file exactly.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  [[nodiscard]] const std::vector<std::string>& names() const {
    return names_;
  }  ///< In file order.
  [[nodiscard]] const Metadata& metadata() const { return metadata_; }
  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.contains(name); }

  /// Throws Error with the nearest name where there is no such tensor.
  [[nodiscard]] const TensorInfo& info(const std::string& name) const;

  /// A new tensor on the CPU.
  [[nodiscard]] torch::Tensor load(const std::string& name) const;

  /// Fills `target`, contiguous on the CPU and of the file's dtype, from element `first` on.
  void read(const std::string& name, int64_t first, torch::Tensor target) const;

 private:
  InputFile file_;
  std::vector<std::string> names_;
  std::map<std::string, TensorInfo> tensors_;
  Metadata metadata_;
};

/// "F32 [512, 512]": how errors and listings show a tensor.
[[nodiscard]] std::string describe_tensor(torch::ScalarType dtype, torch::IntArrayRef shape);

}  // namespace crnet
