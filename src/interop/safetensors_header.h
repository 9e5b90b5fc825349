// The JSON header of a safetensors file: text ↔ table of tensors.
#pragma once

#include <torch/types.h>

#include <map>
#include <string>
#include <vector>

#include "crnet/interop/safetensors.h"

namespace crnet::detail {

inline constexpr uint64_t kLengthBytes = 8;               // of the number in front of the header
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // what the reference reader accepts

struct SafetensorsHeader {
  std::vector<std::string> names;  // by offset
  std::map<std::string, TensorInfo> tensors;
  Metadata metadata;
};

/// "F32"; throws Error for a dtype that the format, or this reader, does not have.
std::string dtype_name(torch::ScalarType dtype);

/// The bytes in front of the data: length, JSON and padding. Offsets follow the order of `tensors`.
std::string encode_header(const NamedTensors& tensors, const Metadata& metadata);

/// Reads and checks `text`, the header without the length; the data takes `data_bytes` from
/// `data_start` on. Errors say what is wrong, and not in which file.
SafetensorsHeader decode_header(const std::string& text, uint64_t data_start, uint64_t data_bytes);

}  // namespace crnet::detail
