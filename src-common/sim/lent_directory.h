// A directory that somebody else owns, where one that is given away is asked for. Test-only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "os/file.h"

namespace swarm::sim {

class LentDirectory : public os::Directory {
 public:
  explicit LentDirectory(os::Directory& directory) : directory_(directory) {}
  Result<std::unique_ptr<os::File>> open(const std::string& name, bool create) override {
    return directory_.open(name, create);
  }
  Status remove(const std::string& name) override { return directory_.remove(name); }
  Status rename(const std::string& from, const std::string& to) override {
    return directory_.rename(from, to);
  }
  Result<std::vector<std::string>> list() override { return directory_.list(); }
  Result<os::Space> space() override { return directory_.space(); }
  Status sync() override { return directory_.sync(); }

 private:
  os::Directory& directory_;
};

}  // namespace swarm::sim
