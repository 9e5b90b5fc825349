// From documents to the shards of their split, through the threads that encode.
#pragma once

#include <deque>
#include <future>
#include <string>

#include "data/encode_pool.h"
#include "data/split_writer.h"

namespace crnet {

struct Splits {
  SplitWriter train;
  SplitWriter validation;

  SplitWriter& of(bool is_validation) { return is_validation ? validation : train; }
};

/// Collects documents into batches, has them encoded, and writes them in the order in which they
/// came, so that the shards do not depend on the number of threads. Memory: a few batches a thread.
class SplitEncoder {
 public:
  SplitEncoder(const Tokenizer& tokenizer, int64_t threads, Splits& splits);

  void add(std::string document, bool is_validation);

  /// Encodes and writes what is left, and completes the shards.
  void finish();

 private:
  struct Pending {
    std::future<TokenBatch> tokens;
    bool is_validation;
  };

  void submit(bool is_validation);
  void write_oldest();
  TextBatch& batch_of(bool is_validation) { return is_validation ? validation_ : train_; }

  EncodePool pool_;
  size_t most_pending_;
  Splits& splits_;
  TextBatch train_, validation_;
  std::deque<Pending> pending_;
};

}  // namespace crnet
