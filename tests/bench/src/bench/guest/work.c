// File work that is timed in a guest: `work VERB FOLDER COUNT` or `work run COMMAND...`.
//
// It is a static C program, so that the time of an interpreter or a dynamic linker does not count. It prints
// the time of the work in nanoseconds. If a call fails, it prints the call, the path and the reason, and
// ends: failed work must have no figure.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *call, const char *name) {
    printf("%s %s: %s\n", call, name, strerror(errno));
    exit(1);
}

static long long now(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0) fail("clock_gettime", "monotonic");
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void read_whole(int folder, const char *name) {
    static char buffer[128 << 10];
    int file = openat(folder, name, O_RDONLY);
    if (file < 0) fail("open", name);
    ssize_t got;
    while ((got = read(file, buffer, sizeof buffer)) > 0) {
    }
    if (got < 0) fail("read", name);
    if (close(file) != 0) fail("close", name);
}

// Reads the attributes of every file below `folder`, and with `contents` also its data.
// Closes `folder` and returns the number of files.
static long walk(int folder, int contents) {
    DIR *list = fdopendir(folder);
    if (list == NULL) fail("opendir", "a folder");
    long files = 0;
    struct dirent *entry;
    errno = 0;
    while ((entry = readdir(list)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        struct stat status;
        if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0) fail("stat", name);
        if (S_ISDIR(status.st_mode)) {
            int below = openat(folder, name, O_RDONLY | O_DIRECTORY);
            if (below < 0) fail("open", name);
            files += walk(below, contents);
        } else {
            files += 1;
            if (contents) read_whole(folder, name);
        }
        errno = 0;
    }
    if (errno != 0) fail("readdir", "a folder");
    if (closedir(list) != 0) fail("closedir", "a folder");
    return files;
}

static void create_all(int folder, long count) {
    char name[32];
    for (long number = 0; number < count; number++) {
        snprintf(name, sizeof name, "file-%ld", number);
        int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (file < 0) fail("create", name);
        if (close(file) != 0) fail("close", name);
    }
}

static void remove_all(int folder, long count) {
    char name[32];
    for (long number = 0; number < count; number++) {
        snprintf(name, sizeof name, "file-%ld", number);
        if (unlinkat(folder, name, 0) != 0) fail("unlink", name);
    }
}

static void run(char **command) {
    pid_t child = fork();
    if (child < 0) fail("fork", command[0]);
    if (child == 0) {
        execvp(command[0], command);
        _exit(127);
    }
    int status;
    if (waitpid(child, &status, 0) != child) fail("wait", command[0]);
    if (status != 0) {
        printf("%s: status %d\n", command[0], status);
        exit(1);
    }
}

int main(int words, char **word) {
    if (words >= 3 && strcmp(word[1], "run") == 0) {
        long long began = now();
        run(word + 2);
        printf("%lld\n", now() - began);
        return 0;
    }
    if (words != 4) {
        printf("usage: work stat|read|create|remove FOLDER COUNT\n");
        return 2;
    }
    int folder = open(word[2], O_RDONLY | O_DIRECTORY);
    if (folder < 0) fail("open", word[2]);
    long count = atol(word[3]), done = count;
    long long began = now();
    if (strcmp(word[1], "stat") == 0) done = walk(folder, 0);
    else if (strcmp(word[1], "read") == 0) done = walk(folder, 1);
    else if (strcmp(word[1], "create") == 0) create_all(folder, count);
    else if (strcmp(word[1], "remove") == 0) remove_all(folder, count);
    else done = -1;
    long long took = now() - began;
    if (done != count) {
        printf("%s: %ld files, not %ld\n", word[1], done, count);
        return 1;
    }
    printf("%lld\n", took);
    return 0;
}
