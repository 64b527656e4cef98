#include "launch/commands/commands.h"

namespace sluice::launch {

std::vector<std::unique_ptr<Command>> AllCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(CreateTrainCommand());
  commands.push_back(CreateTokenizeCommand());
  commands.push_back(CreateEvalCommand());
  commands.push_back(CreateScoreCommand());
  commands.push_back(CreateGenerateCommand());
  commands.push_back(CreateExpertsCommand());
  commands.push_back(CreateAdapterCommand());
  commands.push_back(CreateImportCommand());
  commands.push_back(CreateExportCommand());
  commands.push_back(CreateInspectCommand());
  commands.push_back(CreateSimulateCommand());
  commands.push_back(CreatePlanCommand());
  commands.push_back(CreateDoctorCommand());
  return commands;
}

}  // namespace sluice::launch
