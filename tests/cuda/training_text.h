// What the tests train on.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/launch/run_program.h"

namespace sluice {

// Has a folder of its own with train.txt: a thousand short lines. No text for validation: it would
// be read as a whole at the end.
class OnTrainingText : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = launch::TestFolder();
    std::ofstream text(dir_ + "/train.txt");
    for (int i = 0; i < 1000; ++i) text << i << " comes after " << i - 1 << ", as always.\n";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
};

}  // namespace sluice
