/* Reads files: `list FOLDER` every file that it lists, `names FOLDER` f00000 to f09999, `one FILE` a single one. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char buffer[65536];

static long long read_all(const char *path) {
  long long size = 0;
  ssize_t count;
  int file = open(path, O_RDONLY);
  if (file < 0) {
    perror(path);
    _exit(1);
  }
  while ((count = read(file, buffer, sizeof buffer)) > 0) size += count;
  close(file);
  return size;
}

int main(int argc, char **argv) {
  char path[4096];
  long long size = 0;
  if (argc < 3) return 0;
  if (!strcmp(argv[1], "list")) {
    struct dirent *entry;
    DIR *folder = opendir(argv[2]);
    while (folder && (entry = readdir(folder))) {
      if (entry->d_name[0] == '.') continue;
      snprintf(path, sizeof path, "%s/%s", argv[2], entry->d_name);
      size += read_all(path);
    }
  } else if (!strcmp(argv[1], "names")) {
    for (int at = 0; at < 10000; at++) {
      snprintf(path, sizeof path, "%s/f%05d", argv[2], at);
      size += read_all(path);
    }
  } else {
    size = read_all(argv[2]);
  }
  printf("%lld\n", size);
  return 0;
}
