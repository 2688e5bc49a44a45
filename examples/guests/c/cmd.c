/* A command in plain C on wasi-libc: arguments, environment, files, exit codes. Nothing in it knows
 * of WebAssembly. It is built twice: as a WASI preview 1 module (c-cmd-p1.wasm), and as a WASI 0.2
 * component (c-cmd-p2.wasm), where every exit code but 0 becomes 1.
 *
 * It prints its arguments and its environment. Some arguments make it do something:
 * exit=CODE, cat=PATH, write=PATH, sleep=MILLISECONDS, alloc=MEBIBYTES, stdin (copies its input),
 * trap and spin (a busy loop).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

/* What follows the name, if the argument is NAME=VALUE with this name; else NULL. */
static const char *value(const char *argument, const char *name) {
  size_t length = strlen(name);
  return !strncmp(argument, name, length) && argument[length] == '=' ? argument + length + 1 : NULL;
}

static void cat(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) {
    fprintf(stderr, "open %s: %s\n", path, strerror(errno));
    exit(2);
  }
  char buffer[256];
  size_t count;
  while ((count = fread(buffer, 1, sizeof buffer, file)) > 0) fwrite(buffer, 1, count, stdout);
  fclose(file);
}

static void write_to(const char *path) {
  FILE *file = fopen(path, "w");
  if (!file) {
    perror(path);
    exit(3);
  }
  fprintf(file, "written by the guest\n");
  fclose(file);
}

static void allocate(size_t bytes) {
  char *memory = malloc(bytes);
  if (!memory) {
    fprintf(stderr, "oom\n");
    exit(4);
  }
  memset(memory, 1, bytes);
  printf("allocated %zu\n", bytes);
}

static void copy_input(void) {
  char line[256];
  while (fgets(line, sizeof line, stdin)) printf("in: %s", line);
}

static void spin(void) {
  for (volatile int turn = 0;; turn++) {
  }
}

int main(int argc, char **argv) {
  for (int i = 0; i < argc; i++) printf("arg[%d]=%s\n", i, argv[i]);
  for (char **variable = environ; variable && *variable; variable++) printf("env %s\n", *variable);
  int code = 0;
  for (int i = 1; i < argc; i++) {
    const char *argument = argv[i], *text;
    if ((text = value(argument, "exit"))) code = atoi(text);
    if ((text = value(argument, "cat"))) cat(text);
    if ((text = value(argument, "write"))) write_to(text);
    if ((text = value(argument, "sleep"))) {
      fflush(stdout);
      usleep(1000 * atoi(text));
    }
    if ((text = value(argument, "alloc"))) allocate((size_t)atoi(text) << 20);
    if (!strcmp(argument, "stdin")) copy_input();
    if (!strcmp(argument, "trap")) abort();
    if (!strcmp(argument, "spin")) spin();
  }
  fprintf(stderr, "done %d\n", code);
  return code;
}
