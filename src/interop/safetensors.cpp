#include "crnet/interop/safetensors.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "interop/safetensors_header.h"

namespace crnet {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& message) {
  throw Error("[safetensors] " + path.string() + ": " + message);
}

/// Runs `action`, whose errors do not know the file, and adds the file's name to them.
template <typename Action>
auto naming(const std::filesystem::path& path, Action action) {
  try {
    return action();
  } catch (const std::exception& failure) {
    fail(path, failure.what());
  }
}

void check_can_be_saved(const NamedTensors& tensors) {
  std::set<std::string> seen;
  for (const auto& [name, tensor] : tensors) {
    if (name == "__metadata__") throw Error("expected a tensor's name, got __metadata__");
    if (!seen.insert(name).second) throw Error("expected each name once, got " + name + " twice");
    if (!tensor.defined()) throw Error(name + ": expected a tensor, got an undefined one");
    if (tensor.layout() != torch::kStrided) throw Error(name + ": expected a dense tensor");
    try {
      detail::dtype_name(tensor.scalar_type());
    } catch (const Error& failure) {
      throw Error(name + ": " + failure.what());
    }
  }
}

NamedTensors in_file_order(NamedTensors tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const auto wide_a = a.second.element_size(), wide_b = b.second.element_size();
    return wide_a != wide_b ? wide_a > wide_b : a.first < b.first;
  });
  return tensors;
}

std::string read_header(const InputFile& file) {
  const uint64_t size = file.size();
  uint64_t length = 0;
  if (size < detail::kLengthBytes) {
    throw Error(format("expected a header, got a file of %llu bytes",
                       static_cast<unsigned long long>(size)));
  }
  file.read_at(0, &length, sizeof length);
  if (length > detail::kMaxHeaderBytes || length > size - detail::kLengthBytes) {
    throw Error(
        format("expected a header of %llu bytes, got a file of %llu: it is cut off, or not "
               "a safetensors file",
               static_cast<unsigned long long>(length), static_cast<unsigned long long>(size)));
  }
  std::string text(length, '\0');
  file.read_at(detail::kLengthBytes, text.data(), text.size());
  return text;
}

/// What keeps `target` from being filled from the file, or "".
std::string mismatch(const SafetensorsFile& file, const std::string& name,
                     const torch::Tensor& target) {
  const auto expected = describe_tensor(target.scalar_type(), target.sizes());
  if (!file.contains(name)) return name + ": expected " + expected + ", got no tensor of that name";
  const auto& info = file.info(name);
  const auto got = describe_tensor(info.dtype, info.shape);
  return expected == got ? "" : name + ": expected " + expected + ", got " + got;
}

}  // namespace

std::string describe_tensor(torch::ScalarType dtype, torch::IntArrayRef shape) {
  std::string text = detail::dtype_name(dtype) + " [";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

FileDigest save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                            const Metadata& metadata) {
  NamedTensors ordered;
  const std::string header = naming(path, [&] {
    check_can_be_saved(tensors);
    ordered = in_file_order(tensors);
    return detail::encode_header(ordered, metadata);
  });
  OutputFile file(path);
  file.write(header);
  for (const auto& [name, tensor] : ordered) {
    const auto values = tensor.detach().to(torch::kCPU).contiguous();
    file.write(values.const_data_ptr(), values.nbytes());
  }
  return file.close();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  auto header = naming(path, [&] {
    const std::string text = read_header(file_);
    const uint64_t data_start = detail::kLengthBytes + text.size();
    return detail::decode_header(text, data_start, file_.size() - data_start);
  });
  names_ = std::move(header.names);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  const auto near = nearest_match(name, names_);
  fail(path(), "expected a tensor " + name + ", got none of that name" +
                   (near.empty() ? "" : "; the nearest is " + near));
}

torch::Tensor SafetensorsFile::load(const std::string& name) const {
  const auto& found = info(name);
  auto tensor = torch::empty(found.shape, torch::TensorOptions(found.dtype));
  file_.read_at(found.offset, tensor.mutable_data_ptr(), found.bytes);
  return tensor;
}

void SafetensorsFile::load_into(const std::string& name, torch::Tensor target) const {
  const auto problem = mismatch(*this, name, target);
  if (!problem.empty()) fail(path(), problem);
  const at::NoGradGuard no_grad;
  target.copy_(load(name));
}

void load_into_named(const SafetensorsFile& file, const NamedTensors& targets) {
  std::vector<std::string> problems;
  std::set<std::string> wanted;
  for (const auto& [name, target] : targets) {
    wanted.insert(name);
    auto problem = mismatch(file, name, target);
    if (!problem.empty()) problems.push_back(std::move(problem));
  }
  for (const auto& name : file.names()) {
    if (wanted.contains(name)) continue;
    const auto& info = file.info(name);
    problems.push_back(name + ": expected no such tensor, got " +
                       describe_tensor(info.dtype, info.shape));
  }
  if (problems.size() > 1) problems[0] += format(" (and %zu more differ)", problems.size() - 1);
  if (!problems.empty()) fail(file.path(), problems[0] + "; the file is of another model");
  for (const auto& [name, target] : targets) file.load_into(name, target);
}

}  // namespace crnet
