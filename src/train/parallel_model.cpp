#include "crnet/train/parallel_model.h"

#include "crnet/model/init.h"

namespace crnet {
namespace {

// Matrices of blocks may be gathered in the compute dtype, and have gradients in it: each is made
// by one product. Those of the embedding and the head are sums of many parts.
std::vector<ParameterUnit> units_of(const CausalLMImpl& model) {
  std::vector<ParameterUnit> units;
  for (auto& parameters : model.parameter_units()) units.push_back({std::move(parameters)});
  for (size_t block = 1; block + 1 < units.size(); ++block) {
    units[block].dtype = model.compute_dtype();
  }
  return units;
}

// Where parameters are split the model begins on the CPU, without memory in use: no device need
// ever hold all of it.
CausalLM make_model(const ModelConfig& config, const Runtime& runtime, bool sharded) {
  CausalLM model(config, sharded ? torch::Device(torch::kCPU) : runtime.device);
  for (auto& buffer : model->buffers()) buffer.set_data(buffer.to(runtime.device));
  model->set_compute_dtype(runtime.compute_dtype);
  return model;
}

ParameterUsePtr use_by(DataParallel& parallel) {
  auto use = c10::make_intrusive<ParameterUse>();
  use->before = [&parallel](size_t unit, bool forward) { parallel.before_use(unit, forward); };
  use->after = [&parallel](size_t unit) { parallel.after_use(unit); };
  return use;
}

}  // namespace

ParallelModel::ParallelModel(const ModelConfig& config, const DistConfig& dist,
                             const Runtime& runtime, Group& group)
    : model(make_model(config, runtime, is_sharded(dist, group.size()))),
      parallel(make_data_parallel(group, units_of(*model), dist, runtime.device)) {
  if (is_sharded(dist, group.size())) model->set_parameter_use(use_by(*parallel));
}

void ParallelModel::initialize(uint64_t seed) {
  const torch::NoGradGuard no_grad;
  for (const auto& piece : pieces()) {
    torch::Tensor values = piece.values;
    if (piece.is_whole()) {
      initialize_parameter(values.view(piece.shape), piece.name, model->config(), seed);
      continue;
    }
    const torch::Tensor whole = torch::empty(piece.shape);
    initialize_parameter(whole, piece.name, model->config(), seed);
    values.copy_(whole.view({-1}).narrow(0, piece.begin, values.numel()));
  }
}

std::vector<TensorPiece> ParallelModel::pieces() const {
  std::vector<TensorPiece> all;
  for (const auto& bucket : parallel->pieces()) all.insert(all.end(), bucket.begin(), bucket.end());
  return all;
}

std::vector<TensorSpec> ParallelModel::specs() const {
  std::vector<TensorSpec> specs;
  for (const auto& item : model->named_parameters()) {
    specs.push_back({item.key(), item.value().sizes().vec()});
  }
  return specs;
}

}  // namespace crnet
