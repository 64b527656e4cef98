// Every command of `sluice`. A new one: its file here, its function and its line in AllCommands.
#pragma once

#include <memory>
#include <vector>

#include "launch/command.h"

namespace sluice::launch {

std::unique_ptr<Command> CreateTrainCommand();
std::unique_ptr<Command> CreateTokenizeCommand();
std::unique_ptr<Command> CreateEvalCommand();
std::unique_ptr<Command> CreateScoreCommand();
std::unique_ptr<Command> CreateGenerateCommand();
std::unique_ptr<Command> CreateExpertsCommand();
std::unique_ptr<Command> CreateAdapterCommand();
std::unique_ptr<Command> CreateImportCommand();
std::unique_ptr<Command> CreateExportCommand();
std::unique_ptr<Command> CreateInspectCommand();
std::unique_ptr<Command> CreateSimulateCommand();
std::unique_ptr<Command> CreatePlanCommand();
std::unique_ptr<Command> CreateDoctorCommand();

// In the order `sluice help` lists them.
std::vector<std::unique_ptr<Command>> AllCommands();

}  // namespace sluice::launch
