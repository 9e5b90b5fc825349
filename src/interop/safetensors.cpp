#include "crnet/interop/safetensors.h"

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

template <typename ValuesOf>
FileDigest write_file(const std::filesystem::path& path, const NamedTensors& tensors,
                      const Metadata& metadata, const ValuesOf& values_of) {
  NamedTensors ordered;
  const std::string header = naming(path, [&] {
    check_can_be_saved(tensors);
    ordered = in_file_order(tensors);
    return detail::encode_header(ordered, metadata);
  });
  OutputFile file(path);
  file.write(header);
  for (const auto& item : ordered) {
    const torch::Tensor values = values_of(item).detach().to(torch::kCPU).contiguous();
    file.write(values.const_data_ptr(), values.nbytes());
  }
  return file.close();
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
                            const Metadata& metadata, const std::stop_token& stop) {
  return write_file(path, tensors, metadata, [&](const auto& item) {
    if (stop.stop_requested()) fail(path, "expected to write all tensors, got told to stop");
    return item.second;
  });
}

FileDigest save_safetensors(const std::filesystem::path& path, const NamedTensors& shapes,
                            const Metadata& metadata,
                            const std::function<torch::Tensor(const std::string&)>& load) {
  return write_file(path, shapes, metadata, [&](const auto& item) { return load(item.first); });
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
  read(name, 0, tensor);
  return tensor;
}

void SafetensorsFile::read(const std::string& name, int64_t first, torch::Tensor target) const {
  const auto& found = info(name);
  const auto skipped = static_cast<uint64_t>(first) * target.element_size();
  const bool fits = first >= 0 && target.is_cpu() && target.is_contiguous() &&
                    target.scalar_type() == found.dtype && skipped + target.nbytes() <= found.bytes;
  if (!fits) {
    fail(path(), name + format(": expected a contiguous target on the CPU within %s, got %s at %ld",
                               describe_tensor(found.dtype, found.shape).c_str(),
                               describe_tensor(target.scalar_type(), target.sizes()).c_str(),
                               static_cast<long>(first)));
  }
  file_.read_at(found.offset + skipped, target.mutable_data_ptr(), target.nbytes());
}

}  // namespace crnet
