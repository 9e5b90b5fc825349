// What a run starts from: its data, and where it goes on, the checkpoint. Nothing here creates or
// changes a file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "crnet/config/load.h"
#include "crnet/data/dataset.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/run_config.h"
#include "train/run_folder.h"

namespace crnet {

/// Both splits, checked against the model and long enough for a window each.
struct RunData {
  DataSet train;
  std::optional<DataSet> validation;
};

/// Throws UsageError where data.path or model.vocab_size does not fit, Error where the data are
/// damaged.
RunData open_data(const LoadedConfig<RunConfig>& loaded);

struct RunStart {
  std::optional<Checkpoint> checkpoint;  ///< none: the run starts anew
  std::vector<std::string> refusals;     ///< newer checkpoints that are damaged, a line for each
};

/// The checkpoints that TrainOptions::resume allows to start from, best first, not verified; none
/// where the run starts anew. Throws UsageError where the folder does not allow it.
std::vector<std::string> find_candidates(const RunFolder& folder, const std::string& resume,
                                         const CheckpointStore& store);

}  // namespace crnet
