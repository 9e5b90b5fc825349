#include "interop/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet::detail {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

struct DtypeName {
  const char* name;
  torch::ScalarType dtype;
};

constexpr std::array<DtypeName, 10> kDtypes{{{"F64", torch::kFloat64},
                                             {"F32", torch::kFloat32},
                                             {"F16", torch::kFloat16},
                                             {"BF16", torch::kBFloat16},
                                             {"I64", torch::kInt64},
                                             {"I32", torch::kInt32},
                                             {"I16", torch::kInt16},
                                             {"I8", torch::kInt8},
                                             {"U8", torch::kUInt8},
                                             {"BOOL", torch::kBool}}};

torch::ScalarType dtype_of(const std::string& name) {
  for (const auto& known : kDtypes) {
    if (name == known.name) return known.dtype;
  }
  throw Error("expected one of the dtypes F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL, got " + name);
}

/// JSON objects with the same key twice are legal, and the last one would win unnoticed.
json parse_with_unique_names(const std::string& text) {
  std::set<std::string> seen;
  const auto check = [&](int depth, json::parse_event_t event, json& key) {
    if (event == json::parse_event_t::key && depth == 1 && !seen.insert(key).second) {
      throw Error("expected each tensor once, got " + key.get<std::string>() + " twice");
    }
    return true;
  };
  return json::parse(text, check);
}

uint64_t bytes_of_shape(const std::vector<int64_t>& shape, uint64_t element_bytes) {
  uint64_t bytes = element_bytes;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) {
      throw Error("expected a shape that fits in memory");
    }
  }
  return bytes;
}

unsigned long long ull(uint64_t value) {
  return value;
}

/// `entry` is {dtype, shape, data_offsets}, with the offsets counted from the start of the data.
TensorInfo decode_tensor(const json& entry, uint64_t data_start, uint64_t data_bytes) {
  TensorInfo info{};
  info.dtype = dtype_of(entry.at("dtype").get<std::string>());
  info.shape = entry.at("shape").get<std::vector<int64_t>>();
  const auto [begin, end] = entry.at("data_offsets").get<std::array<uint64_t, 2>>();
  if (begin > end || end > data_bytes) {
    throw Error(format("expected offsets within %llu bytes of data, got %llu to %llu",
                       ull(data_bytes), ull(begin), ull(end)));
  }
  info.offset = data_start + begin;
  info.bytes = end - begin;
  const uint64_t expected = bytes_of_shape(info.shape, torch::elementSize(info.dtype));
  if (info.bytes != expected) {
    throw Error(format("expected %llu bytes for %s, got %llu", ull(expected),
                       describe_tensor(info.dtype, info.shape).c_str(), ull(info.bytes)));
  }
  return info;
}

/// The tensors' names by offset, once they are known to lie one behind the other.
std::vector<std::string> order_by_offset(const std::map<std::string, TensorInfo>& tensors,
                                         uint64_t data_start, uint64_t data_bytes) {
  std::vector<std::string> names;
  for (const auto& [name, info] : tensors) names.push_back(name);
  // An empty tensor shares its offset with the next one: it goes first.
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) {
    const auto &left = tensors.at(a), &right = tensors.at(b);
    return std::pair(left.offset, left.bytes) < std::pair(right.offset, right.bytes);
  });
  uint64_t expected = data_start;
  for (const auto& name : names) {
    const auto& info = tensors.at(name);
    if (info.offset != expected) {
      throw Error(
          format("%s: expected to start at byte %llu, where the tensor before ends, got "
                 "%llu: the tensors %s",
                 name.c_str(), ull(expected), ull(info.offset),
                 info.offset < expected ? "overlap" : "leave a hole"));
    }
    expected += info.bytes;
  }
  if (expected != data_start + data_bytes) {
    throw Error(format("expected %llu bytes of data, got %llu", ull(expected - data_start),
                       ull(data_bytes)));
  }
  return names;
}

SafetensorsHeader decode_object(const json& root, uint64_t data_start, uint64_t data_bytes) {
  if (!root.is_object()) throw Error("expected a JSON object as the header");
  SafetensorsHeader header;
  for (const auto& [name, entry] : root.items()) {
    try {
      if (name == "__metadata__") {
        header.metadata = entry.get<Metadata>();
      } else {
        header.tensors.emplace(name, decode_tensor(entry, data_start, data_bytes));
      }
    } catch (const std::exception& failure) {
      throw Error(name + ": " + failure.what());
    }
  }
  header.names = order_by_offset(header.tensors, data_start, data_bytes);
  return header;
}

}  // namespace

std::string dtype_name(torch::ScalarType dtype) {
  for (const auto& known : kDtypes) {
    if (dtype == known.dtype) return known.name;
  }
  throw Error(std::string("expected a dtype that safetensors files hold here, got ") +
              torch::toString(dtype));
}

std::string encode_header(const NamedTensors& tensors, const Metadata& metadata) {
  nlohmann::ordered_json root = nlohmann::ordered_json::object();
  if (!metadata.empty()) root["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t begin = std::exchange(end, end + tensor.nbytes());
    auto& entry = root[name];
    entry["dtype"] = dtype_name(tensor.scalar_type());
    entry["shape"] = tensor.sizes().vec();
    entry["data_offsets"] = {begin, end};
  }
  std::string text = root.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw Error(format("expected names and metadata below %s, got %s",
                       format_bytes(static_cast<double>(kMaxHeaderBytes)).c_str(),
                       format_bytes(static_cast<double>(text.size())).c_str()));
  }
  const auto length = std::bit_cast<std::array<char, 8>>(uint64_t{text.size()});
  return std::string(length.begin(), length.end()) + text;
}

SafetensorsHeader decode_header(const std::string& text, uint64_t data_start, uint64_t data_bytes) {
  json root;
  try {
    root = parse_with_unique_names(text);
  } catch (const json::exception& failure) {
    throw Error(std::string("expected a JSON header, got: ") + failure.what());
  }
  return decode_object(root, data_start, data_bytes);
}

}  // namespace crnet::detail
