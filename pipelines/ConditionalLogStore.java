package millrace;

import io.delta.storage.HadoopFileSystemLogStore;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.util.Arrays;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSDataOutputStreamBuilder;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Delta's log on S3, for any number of writers: a commit is put on the condition that there is none of its name
 * (If-None-Match, which Hadoop 3.5 calls conditional overwrite), so that of two writers of a version one is refused. Delta's
 * own store for S3 (S3SingleDriverLogStore) has a lock inside one JVM only. Java of Janino: no generics, no lambdas.
 */
public class ConditionalLogStore extends HadoopFileSystemLogStore {
    public ConditionalLogStore(Configuration configuration) {
        super(configuration);
    }

    public void write(Path path, Iterator actions, Boolean overwrite, Configuration configuration) throws IOException {
        StringBuilder lines = new StringBuilder();
        while (actions.hasNext()) {
            lines.append((String) actions.next()).append('\n');
        }
        byte[] commit = lines.toString().getBytes(StandardCharsets.UTF_8);
        FileSystem files = path.getFileSystem(configuration);
        FSDataOutputStreamBuilder builder = files.createFile(path).overwrite(true);
        if (!overwrite.booleanValue()) {
            builder.must("fs.option.create.conditional.overwrite", "true");
        }
        FSDataOutputStream stream = (FSDataOutputStream) builder.build();
        boolean written = false;
        try {
            stream.write(commit);
            written = true;
        } finally {
            if (!written) {
                stream.abort(); // closed, half a commit would be there
            }
        }
        try {
            stream.close();
        } catch (IOException refused) {
            if (String.valueOf(refused).indexOf("412") < 0) {
                throw refused;
            }
            if (!holds(files, path, commit)) {
                throw new FileAlreadyExistsException(path.toString());
            }
        }
    }

    /** Whether the file is this commit: put once, its answer lost, put again by the SDK and refused. Delta would take it for
     * another writer's: it would commit the same files twice, or find rows that it replaces replaced. */
    private static boolean holds(FileSystem files, Path path, byte[] commit) throws IOException {
        if (files.getFileStatus(path).getLen() != commit.length) {
            return false;
        }
        byte[] there = new byte[commit.length];
        FSDataInputStream stream = files.open(path);
        try {
            stream.readFully(0L, there);
        } finally {
            stream.close();
        }
        return Arrays.equals(there, commit);
    }

    public Boolean isPartialWriteVisible(Path path, Configuration configuration) {
        return Boolean.FALSE;
    }
}
