#include "crnet/interop/tensor_pieces.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using Json = nlohmann::json;

constexpr const char* kPiecesEntry = "pieces";
// Readers of Hugging Face's models look for this entry.
const Metadata kCommonMetadata{{"format", "pt"}};

int64_t count_of(const std::vector<int64_t>& shape) {
  return c10::multiply_integers(shape);
}

Json pieces_of(const SafetensorsFile& file) {
  const auto entry = file.metadata().find(kPiecesEntry);
  if (entry == file.metadata().end()) return Json::object();
  try {
    Json pieces = Json::parse(entry->second);
    for (const auto& [name, piece] : pieces.items()) {
      (void)piece.at("shape").get<std::vector<int64_t>>();
      (void)piece.at("begin").get<int64_t>();
    }
    return pieces;
  } catch (const Json::exception& failure) {
    throw Error(
        "[safetensors] " + file.path().string() +
        ": expected {name: {shape, begin}} as the metadata \"pieces\", got: " + failure.what());
  }
}

}  // namespace

bool TensorPiece::is_whole() const {
  return begin == 0 && values.numel() == count_of(shape);
}

TensorPiece whole_piece(std::string name, torch::Tensor tensor) {
  auto shape = tensor.sizes().vec();
  return {std::move(name), std::move(tensor), std::move(shape), 0};
}

std::vector<TensorPiece> whole_pieces(const NamedTensors& tensors) {
  std::vector<TensorPiece> pieces;
  for (const auto& [name, tensor] : tensors) pieces.push_back(whole_piece(name, tensor));
  return pieces;
}

std::vector<TensorPiece> share_of(const std::vector<TensorPiece>& pieces, int64_t part,
                                  int64_t parts) {
  int64_t total = 0;
  for (const auto& piece : pieces) total += piece.values.numel();
  const int64_t first = total * part / parts, last = total * (part + 1) / parts;
  std::vector<TensorPiece> share;
  int64_t start = 0;  // of a piece, in all of them
  for (const auto& piece : pieces) {
    const int64_t count = piece.values.numel();
    const int64_t from = std::clamp<int64_t>(first - start, 0, count);
    const int64_t to = std::clamp<int64_t>(last - start, 0, count);
    start += count;
    if (to == from) continue;
    const bool all = to - from == count;
    share.push_back(
        {piece.name,
         all ? piece.values : piece.values.detach().flatten().narrow(0, from, to - from),
         piece.shape, piece.begin + from});
  }
  return share;
}

FileDigest save_pieces(const std::filesystem::path& path, const std::vector<TensorPiece>& pieces,
                       const std::stop_token& stop) {
  NamedTensors tensors;
  Json stretches = Json::object();
  for (const auto& piece : pieces) {
    if (piece.is_whole()) {
      tensors.emplace_back(piece.name, piece.values.detach().view(piece.shape));
    } else {
      tensors.emplace_back(piece.name, piece.values);
      stretches[piece.name] = {{"shape", piece.shape}, {"begin", piece.begin}};
    }
  }
  Metadata metadata = kCommonMetadata;
  if (!stretches.empty()) metadata[kPiecesEntry] = stretches.dump();
  return save_safetensors(path, tensors, metadata, stop);
}

TensorFiles::TensorFiles(const std::vector<std::filesystem::path>& paths) {
  for (const auto& path : paths) files_.emplace_back(path);
  for (size_t file = 0; file < files_.size(); ++file) add(file);
  for (auto& [name, tensor] : tensors_) check_stretches(name, tensor);
}

void TensorFiles::add(size_t file) {
  const Json pieces = pieces_of(files_[file]);
  for (const auto& name : files_[file].names()) {
    const TensorInfo& info = files_[file].info(name);
    Stretch stretch{0, count_of(info.shape), file};
    auto shape = info.shape;
    if (const auto piece = pieces.find(name); piece != pieces.end()) {
      stretch.begin = piece->at("begin");
      shape = piece->at("shape").get<std::vector<int64_t>>();
    }
    Tensor& tensor = tensors_.try_emplace(name, Tensor{shape, info.dtype, {}}).first->second;
    if (tensor.shape != shape || tensor.dtype != info.dtype) {
      throw Error(format("[safetensors] %s: %s: expected %s as in other files, got %s",
                         files_[file].path().c_str(), name.c_str(),
                         describe_tensor(tensor.dtype, tensor.shape).c_str(),
                         describe_tensor(info.dtype, shape).c_str()));
    }
    tensor.stretches.push_back(stretch);
  }
}

void TensorFiles::check_stretches(const std::string& name, Tensor& tensor) const {
  auto& stretches = tensor.stretches;
  std::sort(stretches.begin(), stretches.end(),
            [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
  int64_t next = 0;
  bool follow = true;
  for (const auto& stretch : stretches) {
    follow = follow && stretch.begin == next;
    if (follow) next += stretch.count;
  }
  if (follow && next == count_of(tensor.shape)) return;
  throw Error(
      format("[safetensors] %s: expected %s in pieces that follow each other, got them up "
             "to element %ld of %ld; a file is missing or of another set",
             paths().c_str(), name.c_str(), static_cast<long>(next),
             static_cast<long>(count_of(tensor.shape))));
}

std::string TensorFiles::paths() const {
  if (files_.empty()) return "no files";
  const std::string first = files_.front().path().string();
  return files_.size() == 1 ? first : first + format(" and %zu more", files_.size() - 1);
}

std::vector<std::string> TensorFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

const TensorFiles::Tensor& TensorFiles::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  const auto near = nearest_match(name, names());
  throw Error("[safetensors] " + paths() + ": expected a tensor " + name +
              ", got none of that name" + (near.empty() ? "" : "; the nearest is " + near));
}

TensorSpec TensorFiles::spec(const std::string& name) const {
  const Tensor& tensor = find(name);
  return {name, tensor.shape, tensor.dtype};
}

torch::Tensor TensorFiles::load(const std::string& name) const {
  const Tensor& tensor = find(name);
  auto whole = torch::empty(tensor.shape, torch::TensorOptions(tensor.dtype));
  read(name, 0, whole);
  return whole;
}

void TensorFiles::read(const std::string& name, int64_t begin, torch::Tensor target) const {
  const Tensor& tensor = find(name);
  const int64_t end = begin + target.numel(), count = count_of(tensor.shape);
  if (tensor.dtype != target.scalar_type() || begin < 0 || end > count) {
    throw Error(format("[safetensors] %s: %s: expected %s with at least %ld elements, got %s",
                       paths().c_str(), name.c_str(), c10::toString(target.scalar_type()),
                       static_cast<long>(end),
                       describe_tensor(tensor.dtype, tensor.shape).c_str()));
  }
  const at::NoGradGuard no_grad;
  const bool in_place = target.is_cpu() && target.is_contiguous();
  torch::Tensor values = in_place ? target : torch::empty(target.sizes(), tensor.dtype);
  const torch::Tensor flat = values.view({-1});
  for (const auto& stretch : tensor.stretches) {
    const int64_t from = std::max(begin, stretch.begin);
    const int64_t to = std::min(end, stretch.begin + stretch.count);
    if (to <= from) continue;
    files_[stretch.file].read(name, from - stretch.begin, flat.narrow(0, from - begin, to - from));
  }
  if (!in_place) target.copy_(values);
}

void TensorFiles::expect(const std::vector<TensorSpec>& specs) const {
  std::vector<std::string> problems;
  std::set<std::string> wanted;
  for (const auto& spec : specs) {
    wanted.insert(spec.name);
    const auto expected = describe_tensor(spec.dtype, spec.shape);
    const auto found = tensors_.find(spec.name);
    const auto got = found == tensors_.end()
                         ? "no tensor of that name"
                         : describe_tensor(found->second.dtype, found->second.shape);
    if (got != expected) problems.push_back(spec.name + ": expected " + expected + ", got " + got);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (wanted.contains(name)) continue;
    problems.push_back(name + ": expected no such tensor, got " +
                       describe_tensor(tensor.dtype, tensor.shape));
  }
  if (problems.empty()) return;
  if (problems.size() > 1) problems[0] += format(" (and %zu more differ)", problems.size() - 1);
  throw Error("[safetensors] " + paths() + ": " + problems[0] + "; the file is of another model");
}

FileDigest save_whole(const std::filesystem::path& path, const TensorFiles& files) {
  NamedTensors shapes;
  for (const auto& name : files.names()) {
    const TensorSpec spec = files.spec(name);
    shapes.emplace_back(
        name, torch::empty(spec.shape, torch::TensorOptions(torch::kMeta).dtype(spec.dtype)));
  }
  return save_safetensors(path, shapes, kCommonMetadata,
                          [&](const std::string& name) { return files.load(name); });
}

void load_into_named(const TensorFiles& files, const NamedTensors& targets) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, target] : targets) {
    specs.push_back({name, target.sizes().vec(), target.scalar_type()});
  }
  files.expect(specs);
  for (const auto& [name, target] : targets) files.read(name, 0, target);
}

}  // namespace crnet
