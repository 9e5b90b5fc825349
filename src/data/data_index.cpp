#include "crnet/data/data_index.h"

#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "crnet-data";
constexpr int kVersion = 1;

Json to_json(const SplitIndex& split) {
  Json shards = Json::array();
  for (const auto& shard : split.shards) {
    shards.push_back(
        {{"file", shard.file}, {"tokens", shard.tokens}, {"checksum", shard.checksum}});
  }
  return {{"documents", split.documents},
          {"text_bytes", split.text_bytes},
          {"tokens", split.tokens},
          {"bytes_per_token", split.bytes_per_token()},
          {"shards", std::move(shards)}};
}

SplitIndex split_from_json(const Json& json) {
  SplitIndex split{.documents = json.at("documents"),
                   .text_bytes = json.at("text_bytes"),
                   .tokens = json.at("tokens"),
                   .shards = {}};
  for (const auto& shard : json.at("shards")) {
    split.shards.push_back({shard.at("file"), shard.at("tokens"), shard.at("checksum")});
  }
  return split;
}

DataIndex index_from_json(const Json& json) {
  const auto& tokenizer = json.at("tokenizer");
  DataIndex index{.tokenizer_hash = tokenizer.at("hash"),
                  .vocab_size = tokenizer.at("vocab_size"),
                  .eos_id = tokenizer.at("eos_id"),
                  .options = json.at("options"),
                  .splits = {}};
  for (const auto& [name, split] : json.at("splits").items()) {
    index.splits[name] = split_from_json(split);
  }
  return index;
}

}  // namespace

double SplitIndex::bytes_per_token() const {
  return tokens > 0 ? static_cast<double>(text_bytes) / static_cast<double>(tokens) : 0.0;
}

std::string DataIndex::content_hash() const {
  Json content = {{"tokenizer", tokenizer_hash}};
  for (const auto& [name, split] : splits) content[name] = to_json(split).at("shards");
  return xxh3_hex(content.dump());
}

DataIndex DataIndex::load(const std::filesystem::path& folder) {
  const auto path = folder / kIndexFile;
  if (!std::filesystem::exists(path)) {
    throw UsageError("[data] expected prepared data in " + folder.string() +
                     ", got no index.json; make it, or finish it, with crnet prepare");
  }
  try {
    const auto json = Json::parse(read_text(path));
    if (json.at("format") != kFormat || json.at("version") != kVersion) {
      throw Error(
          format("[data] expected format %s, version %d, got another in ", kFormat, kVersion) +
          path.string());
    }
    return index_from_json(json);
  } catch (const nlohmann::json::exception& failure) {
    throw Error("[data] expected an index of prepared data in " + path.string() +
                ", got: " + failure.what());
  }
}

void DataIndex::save(const std::filesystem::path& folder) const {
  Json split_list = Json::object();
  for (const auto& [name, split] : splits) split_list[name] = to_json(split);
  const Json json = {{"format", kFormat},
                     {"version", kVersion},
                     {"tokenizer",
                      {{"file", kTokenizerFile},
                       {"hash", tokenizer_hash},
                       {"vocab_size", vocab_size},
                       {"eos_id", eos_id}}},
                     {"options", options},
                     {"splits", std::move(split_list)}};
  write_text_atomic(folder / kIndexFile,
                    json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace crnet
