// What a run starts from: its data, and where it goes on, the checkpoint. Nothing here creates or
// changes a file.
#pragma once

#include <optional>
#include <string>

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

/// The checkpoint that TrainOptions::resume asks for; none where the run starts anew. Throws
/// UsageError where the folder does not allow it, Error where no checkpoint is sound.
std::optional<Checkpoint> find_start(const RunFolder& folder, const std::string& resume,
                                     CheckpointStore& store);

}  // namespace crnet
