// What the projections of one block leave in the forward pass, so that the block can be rebuilt in
// the backward pass without their products.
#pragma once

#include <torch/types.h>

#include <deque>

#include "crnet/ops/attention.h"
#include "crnet/ops/low_rank_residual.h"

namespace crnet {

/// What one projection leaves.
struct TapeEntry {
  LowRankProducts products;  ///< whichever of X A [N, R] and Y [..., out] is held
  /// What leads from Y of the block below to Y, or back; undefined in the first block. Parameters,
  /// not copies.
  torch::Tensor B, beta;
  double epsilon = 0;
  torch::Tensor y_prev;  ///< what it was called with
};

/// The entries of one block, in the order in which its projections and attentions were called.
/// While a tape runs in this thread, every CRNetLayer and CoLALayer that is called takes its next
/// entry, and so may attention: what the entry holds is not computed again, what it lacks is
/// computed and left there.
class Tape {
 public:
  /// The entry for the projection that is being called; nullptr where no tape runs.
  [[nodiscard]] static TapeEntry* next();
  /// The same for attention.
  [[nodiscard]] static AttentionProducts* next_attention();

  /// Runs a tape from its first entry on, for as long as it lives. A tape that never ran grows with
  /// each call; one that did throws Error at a call too many.
  class Run {
   public:
    explicit Run(Tape& tape);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

   private:
    Tape* outer_;
  };

  // Deques, since an entry stays in use while further ones are taken.
  std::deque<TapeEntry> entries;
  std::deque<AttentionProducts> attentions;

 private:
  size_t position_ = 0, attention_position_ = 0;
  bool grows_ = true;
};

}  // namespace crnet
