// The shape of a model: everything that decides its parameters and its function.
//
// Shapes: B batch, T sequence, C hidden, H heads, D head size, F MLP width, R low rank, V
// vocabulary, L blocks.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "crnet/config/fields.h"

namespace crnet {

/// Which projections the blocks are made of.
enum class Architecture {
  kLlama,  ///< full rank: Y = X W
  kCRNet,  ///< cross-layer low rank: Y_l = c(β_l) Y_{l−1} + X_l A_l B_l (arXiv 2509.18993)
  kCoLA,   ///< low rank with a nonlinearity: Y = SiLU(X A) B (arXiv 2502.10940)
};

/// How the factors of a low-rank product are drawn at the start; see docs/initialisation.md.
enum class LowRankInit {
  kProduct,  ///< both factors normal, scaled so that the entries of A·B have std `init_std`
  kZero,     ///< A normal with std 1/√in, B zero: the low-rank term starts at nothing
};

/// The seven projections of a block, in the order in which every list of them is kept.
enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int64_t kNumProjections = 7;
/// "q", "k", "v", "o", "gate", "up", "down".
inline constexpr std::array<const char*, kNumProjections> kProjectionNames = {
    "q", "k", "v", "o", "gate", "up", "down"};

/// The low rank r: one number for all; one per block (L entries, the first unused where block 1 is
/// full rank); or one per projection name, with "default" for those not named.
using LowRank = IntegerOrListOrMap;

template <>
struct EnumNames<Architecture> {
  static constexpr std::array<EnumName<Architecture>, 3> kValues = {
      {{Architecture::kLlama, "llama"},
       {Architecture::kCRNet, "crnet"},
       {Architecture::kCoLA, "cola"}}};
};

template <>
struct EnumNames<LowRankInit> {
  static constexpr std::array<EnumName<LowRankInit>, 2> kValues = {
      {{LowRankInit::kProduct, "product"}, {LowRankInit::kZero, "zero"}}};
};

struct ModelConfig {
  Architecture architecture = Architecture::kCRNet;
  int64_t vocab_size = 32000;          ///< V
  int64_t hidden_size = 512;           ///< C
  int64_t num_layers = 8;              ///< L
  int64_t num_heads = 8;               ///< H
  int64_t num_kv_heads = 0;            ///< heads of k and v; 0: as many as num_heads
  int64_t ffn_size = 1376;             ///< F
  int64_t max_sequence_length = 2048;  ///< longest T that the model is asked for
  LowRank r = int64_t{128};            ///< low rank; not used by llama
  bool low_rank_first_block = false;   ///< crnet: block 1 is low rank too
  double beta_init = 1.0;              ///< crnet: β at the start
  bool learnable_beta = true;          ///< crnet: β is trained, else fixed
  double beta_epsilon = 1e-6;          ///< crnet: ε of c(β) = sign(β)·(|β| + ε)
  bool cola_mlp_activation = true;     ///< cola: keep the SwiGLU's own SiLU on the gate
  double rope_theta = 10000.0;         ///< base of the rotary frequencies
  double norm_epsilon = 1e-6;          ///< added to the mean square in RMSNorm
  bool tie_embeddings = false;         ///< the head is the embedding's matrix
  double init_std = 0.02;              ///< std of the weights at the start
  LowRankInit low_rank_init = LowRankInit::kZero;

  template <class Visitor>
  void visit_fields(Visitor&& visit);

  [[nodiscard]] int64_t head_size() const { return hidden_size / num_heads; }
  [[nodiscard]] int64_t kv_heads() const { return num_kv_heads == 0 ? num_heads : num_kv_heads; }
  /// Input width of a projection.
  [[nodiscard]] int64_t in_features(Projection projection) const;
  /// Output width of a projection.
  [[nodiscard]] int64_t out_features(Projection projection) const;
  /// Output widths of the seven projections together.
  [[nodiscard]] int64_t output_elements() const;
  /// r of a projection in block `layer` (from 0).
  [[nodiscard]] int64_t low_rank(int64_t layer, Projection projection) const;
  /// Whether a projection in block `layer` is one full-rank matrix.
  [[nodiscard]] bool is_full_rank(int64_t layer) const;

  /// Checks what no single field can: divisibility, list lengths, names. Throws UsageError whose
  /// text starts with the key at fault ("model.num_heads: expected …").
  void validate() const;
};

/// "default" and the projections: what a map of r may name.
[[nodiscard]] std::vector<std::string> low_rank_names();

template <class Visitor>
void ModelConfig::visit_fields(Visitor&& visit) {
  visit(architecture, {.name = "architecture", .help = "what the projections are made of"});
  visit(vocab_size, {.name = "vocab_size",
                     .help = "entries of the vocabulary, V",
                     .minimum = 1,
                     .maximum = 100000000});
  visit(hidden_size, {.name = "hidden_size",
                      .help = "width of the residual stream, C",
                      .minimum = 1,
                      .maximum = 1000000});
  visit(num_layers, {.name = "num_layers", .help = "blocks, L", .minimum = 1, .maximum = 10000});
  visit(num_heads, {.name = "num_heads", .help = "attention heads, H", .minimum = 1});
  visit(
      num_kv_heads,
      {.name = "num_kv_heads", .help = "heads of k and v; 0: as many as num_heads", .minimum = 0});
  visit(ffn_size,
        {.name = "ffn_size", .help = "width inside the MLP, F", .minimum = 1, .maximum = 10000000});
  visit(max_sequence_length, {.name = "max_sequence_length",
                              .help = "longest sequence that the model is asked for, in tokens",
                              .minimum = 1,
                              .maximum = 100000000});
  visit(r, {.name = "r",
            .help = "low rank: one number, one per block, or one per projection with a default; "
                    "not used by llama",
            .minimum = 1,
            .map_keys = low_rank_names()});
  visit(low_rank_first_block,
        {.name = "low_rank_first_block", .help = "crnet: the first block is low rank too"});
  visit(beta_init, {.name = "beta_init", .help = "crnet: beta at the start"});
  visit(learnable_beta,
        {.name = "learnable_beta", .help = "crnet: beta is trained; false: it stays at beta_init"});
  visit(beta_epsilon, {.name = "beta_epsilon",
                       .help = "crnet: epsilon of c = sign(beta) * (|beta| + epsilon)",
                       .minimum = 0});
  visit(cola_mlp_activation,
        {.name = "cola_mlp_activation", .help = "cola: keep the SwiGLU's own SiLU on the gate"});
  visit(rope_theta,
        {.name = "rope_theta", .help = "base of the rotary position frequencies", .above = 0});
  visit(norm_epsilon,
        {.name = "norm_epsilon", .help = "added to the mean square in RMSNorm", .above = 0});
  visit(tie_embeddings,
        {.name = "tie_embeddings", .help = "the output head shares the embedding's matrix"});
  visit(init_std,
        {.name = "init_std", .help = "standard deviation of the weights at the start", .above = 0});
  visit(
      low_rank_init,
      {.name = "low_rank_init",
       .help = "product: A and B normal, scaled so that A B has init_std; zero: B starts at zero"});
}

}  // namespace crnet
