/* The least that a guest needs to run one program from an image: PID 1 and agent of the floor that starts are compared to.
 *
 * Lines on the first port of the serial device: it says "ready" once it has booted; told anything, it mounts the image with
 * an empty layer over it, runs PROGRAM there, and says "ran <wait status>". A step that fails is said as "failed <step>". */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MODULES "/modules"

static int port = -1;

static void say(const char *word, const char *about) {
    char line[256];
    int length = snprintf(line, sizeof line, "%s %s\n", word, about);
    if (write(port < 0 ? STDERR_FILENO : port, line, length) != length) _exit(1);
}

static void must(int failed, const char *step) {
    if (failed) {
        say("failed", step);
        _exit(1);
    }
}

/* In the order of their names. */
static void load_modules(void) {
    struct dirent **entries;
    int count = scandir(MODULES, &entries, NULL, alphasort);
    must(count < 0, "scandir");
    for (int i = 0; i < count; i++) {
        char path[512];
        if (entries[i]->d_name[0] == '.') continue;
        snprintf(path, sizeof path, MODULES "/%s", entries[i]->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        must(file < 0 || syscall(SYS_finit_module, file, "", 0) != 0, path);
        close(file);
    }
}

/* The kernel makes the device some time after its driver is there; which number it counts from depends on the board. */
static void open_port(void) {
    char events[4096];
    int watch = inotify_init1(IN_CLOEXEC);
    must(watch < 0 || inotify_add_watch(watch, "/dev", IN_CREATE) < 0, "inotify");
    for (;;) {
        for (int device = 0; device < 4 && port < 0; device++) {
            char path[32];
            snprintf(path, sizeof path, "/dev/vport%dp1", device);
            port = open(path, O_RDWR | O_CLOEXEC);
        }
        if (port >= 0) break;
        must(read(watch, events, sizeof events) <= 0, "wait for the port");
    }
    close(watch);
}

static void mount_image(void) {
    must(mount("/dev/vda", "/image", "erofs", MS_RDONLY, NULL), "mount the image");
    must(mount("layer", "/layer", "tmpfs", 0, NULL), "mount the layer");
    must(mkdir("/layer/upper", 0755) || mkdir("/layer/work", 0755), "make folders");
    must(mount("root", "/merged", "overlay", 0, "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work"), "overlay");
}

static void run(void) {
    char status[16];
    int ended = -1;
    pid_t child = fork();
    must(child < 0, "fork");
    if (child == 0) {
        if (chroot("/merged") || chdir("/")) _exit(98);
        execl(PROGRAM, PROGRAM, (char *)NULL);
        _exit(99);
    }
    must(waitpid(child, &ended, 0) != child, "wait");
    snprintf(status, sizeof status, "%d", ended);
    say("ran", status);
}

int main(void) {
    const char *folders[] = {"/image", "/layer", "/merged"};
    for (unsigned i = 0; i < sizeof folders / sizeof *folders; i++) must(mkdir(folders[i], 0755), folders[i]);
    must(mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL), "mount");
    /* The kernel may have done it already. */
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    open_port();
    say("ready", "");
    char order[16];
    must(read(port, order, sizeof order) <= 0, "read");
    mount_image();
    run();
    for (;;) pause();
}
