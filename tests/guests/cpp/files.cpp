// Counts the lines of every file in the folder of its first argument, writes the sum into the second and reads it back.
// std::filesystem is left out of the libc++ for WASI, so the folder is listed by POSIX's functions.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include <dirent.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    std::vector<std::string> files;
    DIR *folder = opendir(argv[1]);
    if (folder == nullptr) {
        std::cerr << argv[1] << " cannot be listed\n";
        return 1;
    }
    while (const dirent *entry = readdir(folder))
        if (entry->d_type == DT_REG) files.push_back(std::string(argv[1]) + "/" + entry->d_name);
    closedir(folder);
    std::sort(files.begin(), files.end());

    size_t lines = 0;
    for (const auto &name : files) {
        std::ifstream file(name);
        lines += std::count(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>(), '\n');
    }
    const std::string sum = std::string(argv[2]) + "/cpp";
    std::ofstream(sum) << lines << '\n';
    std::cout << std::ifstream(sum).rdbuf();
}
