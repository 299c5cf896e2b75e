// What Android's file managers and Java's backup programs do, with JSch as Debian has it.
//
//     java Jsch PORT USER COMMAND [ARGUMENT...]      the password is in CLIENT_PASSWORD
//
// `ls DIR`, `get REMOTE LOCAL`, `put LOCAL REMOTE [SECONDS]` (with setMtime afterwards),
// `resume LOCAL REMOTE`, `rm FILE`, `mkdir DIR`, `rmdir DIR`, `rename FROM TO`.

import com.jcraft.jsch.ChannelSftp;
import com.jcraft.jsch.JSch;
import com.jcraft.jsch.Session;

public class Jsch {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        Session session = new JSch().getSession(arguments[1], "127.0.0.1", port);
        session.setPassword(System.getenv("CLIENT_PASSWORD"));
        session.setConfig("StrictHostKeyChecking", "no");
        session.setConfig("PreferredAuthentications", "password");
        session.connect(20000);
        ChannelSftp there = (ChannelSftp) session.openChannel("sftp");
        there.connect(20000);
        try {
            run(there, arguments);
        } finally {
            there.disconnect();
            session.disconnect();
        }
    }

    private static void run(ChannelSftp there, String[] arguments) throws Exception {
        switch (arguments[2]) {
            case "ls":
                for (Object found : there.ls(arguments[3])) {
                    ChannelSftp.LsEntry entry = (ChannelSftp.LsEntry) found;
                    System.out.println(
                            entry.getFilename()
                                    + "\t"
                                    + entry.getAttrs().getSize()
                                    + "\t"
                                    + entry.getAttrs().getMTime()
                                    + "\t"
                                    + entry.getLongname());
                }
                break;
            case "get":
                there.get(arguments[3], arguments[4]);
                break;
            case "put":
                there.put(arguments[3], arguments[4]);
                if (arguments.length > 5) {
                    there.setMtime(arguments[4], Integer.parseInt(arguments[5]));
                }
                break;
            case "resume":
                there.put(arguments[3], arguments[4], ChannelSftp.RESUME);
                break;
            case "rm":
                there.rm(arguments[3]);
                break;
            case "mkdir":
                there.mkdir(arguments[3]);
                break;
            case "rmdir":
                there.rmdir(arguments[3]);
                break;
            case "rename":
                there.rename(arguments[3], arguments[4]);
                break;
            default:
                throw new IllegalArgumentException(arguments[2]);
        }
    }
}
