#include "launch/run_command_line.h"

int main(int argc, char** argv) { return sluice::launch::RunCommandLine(argc, argv); }
