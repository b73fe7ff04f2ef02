/* Preloaded, it makes every sync to the disk take a millisecond longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void find(void) {
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
}

int fsync(int fd) {
    usleep(1000);
    return real_fsync(fd);
}

int fdatasync(int fd) {
    usleep(1000);
    return real_fdatasync(fd);
}
