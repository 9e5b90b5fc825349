#include "crnet/data/dataset.h"

#include <algorithm>
#include <utility>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "data/checksum.h"

namespace crnet {
namespace {

void check_tokenizer(const DataIndex& index, const DataSetChecks& checks,
                     const std::filesystem::path& folder) {
  if (!checks.tokenizer_hash.empty() && checks.tokenizer_hash != index.tokenizer_hash) {
    throw UsageError("[data] expected data of the tokenizer " + checks.tokenizer_hash + ", got " +
                     folder.string() + " of the tokenizer " + index.tokenizer_hash +
                     "; prepare it with the other's tokenizer.model");
  }
  if (checks.vocab_size != 0 && checks.vocab_size != index.vocab_size) {
    throw UsageError(
        format("[data] expected data of %ld different ids, got %d in %s; set the model's "
               "vocabulary to the data's",
               static_cast<long>(checks.vocab_size), index.vocab_size, folder.c_str()));
  }
}

Shard open_shard(const std::filesystem::path& path, const ShardEntry& entry,
                 const DataIndex& index) {
  auto shard = Shard::open(path);
  const auto& header = shard.header();
  if (header.tokenizer_hash != index.tokenizer_hash) {
    throw Error("[data] expected a shard of the tokenizer " + index.tokenizer_hash + ", got " +
                path.string() + " of the tokenizer " + header.tokenizer_hash);
  }
  if (header.tokens != entry.tokens || hex(header.checksum) != entry.checksum) {
    throw Error(
        format("[data] expected the shard of the index (%ld tokens, checksum %s), got "
               "another one (%ld tokens, checksum %s): %s; prepare the data again",
               static_cast<long>(entry.tokens), entry.checksum.c_str(),
               static_cast<long>(header.tokens), hex(header.checksum).c_str(), path.c_str()));
  }
  return shard;
}

std::string names_of(const std::map<std::string, SplitIndex>& splits) {
  std::string names;
  for (const auto& [name, split] : splits) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

DataSet DataSet::open(const std::filesystem::path& folder, const std::string& split,
                      const DataSetChecks& checks) {
  auto state = std::make_shared<State>(State{folder, split, DataIndex::load(folder), {}});
  const auto& index = state->index;
  check_tokenizer(index, checks, folder);
  const auto found = index.splits.find(split);
  if (found == index.splits.end()) {
    throw UsageError("[data] expected a split of " + folder.string() + " (" +
                     names_of(index.splits) + "), got '" + split + "'");
  }
  for (const auto& entry : found->second.shards) {
    state->shards.push_back(open_shard(folder / entry.file, entry, index));
    if (checks.verify) state->shards.back().verify();
  }
  return DataSet(std::move(state));
}

const SplitIndex& DataSet::split_index() const {
  return state_->index.splits.at(state_->split);
}

int64_t DataSet::tokens() const {
  int64_t sum = 0;
  for (const auto& shard : shards()) sum += shard.tokens();
  return sum;
}

TokenWindows::TokenWindows(DataSet dataset, int64_t sequence_length)
    : dataset_(std::move(dataset)), sequence_length_(sequence_length), first_window_{0} {
  if (sequence_length < 1) {
    throw UsageError(format("[data] expected a sequence length of 1 or more, got %ld",
                            static_cast<long>(sequence_length)));
  }
  for (const auto& shard : dataset_.shards()) {
    const int64_t windows = std::max<int64_t>(shard.tokens() - 1, 0) / sequence_length;
    first_window_.push_back(first_window_.back() + windows);
  }
  if (count() > 0) return;
  throw UsageError(
      format("[data] expected at least %ld tokens in a shard for sequences of %ld, got %ld "
             "tokens in %zu shard(s) of the split '%s' of %s; prepare more text, or use "
             "shorter sequences",
             static_cast<long>(sequence_length + 1), static_cast<long>(sequence_length),
             static_cast<long>(dataset_.tokens()), dataset_.shards().size(),
             dataset_.split().c_str(), dataset_.folder().c_str()));
}

void TokenWindows::read(int64_t index, std::span<int64_t> inputs,
                        std::span<int64_t> targets) const {
  const auto next = std::upper_bound(first_window_.begin(), first_window_.end(), index);
  const auto shard_number = static_cast<size_t>(next - first_window_.begin()) - 1;
  const auto& shard = dataset_.shards().at(shard_number);
  const int64_t begin = (index - first_window_[shard_number]) * sequence_length_;
  shard.read(begin, inputs);
  shard.read(begin + 1, targets);
}

}  // namespace crnet
