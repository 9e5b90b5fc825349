// Named tensors that lie in stretches over several safetensors files, so that every process of a
// run can write its own share, and any number of processes read theirs.
//
// A stretch is a 1-D tensor under the name of the whole. The file's metadata has, under "pieces",
// the JSON text {name: {"shape": of the whole, "begin": its first element}, …}; a tensor without an
// entry there is whole.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "crnet/core/file.h"
#include "crnet/interop/safetensors.h"

namespace crnet {

/// Elements `begin` to begin + values.numel() of a tensor, row-major.
struct TensorPiece {
  std::string name;
  torch::Tensor values;        ///< of `shape` where it is the whole, else 1-D
  std::vector<int64_t> shape;  ///< of the whole
  int64_t begin = 0;

  [[nodiscard]] bool is_whole() const;
};

[[nodiscard]] TensorPiece whole_piece(std::string name, torch::Tensor tensor);
[[nodiscard]] std::vector<TensorPiece> whole_pieces(const NamedTensors& tensors);

/// Part `part` (from 0) of `parts` equal ones of what `pieces` hold, laid end to end. The values
/// are views.
[[nodiscard]] std::vector<TensorPiece> share_of(const std::vector<TensorPiece>& pieces,
                                                int64_t part, int64_t parts);

/// Writes a file as save_safetensors() does, and throws what that throws; a tensor may have one
/// piece in it.
FileDigest save_pieces(const std::filesystem::path& path, const std::vector<TensorPiece>& pieces,
                       const std::stop_token& stop = {});

/// Which tensor there has to be.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  torch::ScalarType dtype = torch::kFloat32;
};

/// The tensors of a set of files. Opening reads headers alone. Errors name the file or the tensor.
class TensorFiles {
 public:
  /// Throws Error where a file is not sound, or the pieces of a tensor differ in shape or dtype,
  /// overlap, or leave holes.
  explicit TensorFiles(const std::vector<std::filesystem::path>& paths);

  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.contains(name); }
  /// Throws Error with the nearest name where there is no such tensor, as the next two.
  [[nodiscard]] TensorSpec spec(const std::string& name) const;
  /// A new tensor on the CPU.
  [[nodiscard]] torch::Tensor load(const std::string& name) const;
  /// Fills `target`, on any device and outside autograd, from element `begin` on. Throws Error for
  /// another dtype, and where the tensor ends before.
  void read(const std::string& name, int64_t begin, torch::Tensor target) const;

  /// Throws Error that names the first difference where the tensors are not those of `specs`.
  void expect(const std::vector<TensorSpec>& specs) const;

 private:
  struct Stretch {
    int64_t begin, count;
    size_t file;
  };
  struct Tensor {
    std::vector<int64_t> shape;
    torch::ScalarType dtype;
    std::vector<Stretch> stretches;  // in order
  };
  void add(size_t file);
  void check_stretches(const std::string& name, Tensor& tensor) const;
  [[nodiscard]] const Tensor& find(const std::string& name) const;
  [[nodiscard]] std::string paths() const;

  std::vector<SafetensorsFile> files_;
  std::map<std::string, Tensor> tensors_;
};

/// Writes every tensor whole into one file, as save_safetensors(); one at a time is in memory.
FileDigest save_whole(const std::filesystem::path& path, const TensorFiles& files);

/// Fills every target from the tensor of its name. A tensor that is missing, is of another shape or
/// dtype, or has no target is an Error that names it; nothing is written in that case.
void load_into_named(const TensorFiles& files, const NamedTensors& targets);

}  // namespace crnet
